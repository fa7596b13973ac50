"""The command ``explainer``: parses, calls, prints; one file for each command.

Exit codes: 0, done; 1, done, and the verdict is "do not trust" (of an explanation; of several: of any of
them, or one could not be explained), "collapsed" (of a generator), or of an audit "confounded"; 2, wrong
input, named in one line on stderr with its remedy; 3, a fault in this package; 4, an audit found too little
evidence, if asked with ``--fail-on insufficient``; 130, stopped by Ctrl-C. ``--debug`` adds the traceback.

Results go to stdout, everything else to stderr. With ``--json`` stdout is one JSON object or list and nothing
else. Whatever imports torch is imported inside the commands, so that ``explainer --help`` is quick.
"""

from explainer.cli.application import app, main

__all__ = ["app", "main"]
