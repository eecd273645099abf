import signal

import hypothesis

# A shell that starts the tests in the background has SIGINT ignored, and so would every
# process they start: those that end by Ctrl-C would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup that is so of SIGHUP, too; what has a handler here comes to them as it is by default.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# An example that takes long on a busy machine is no failure.
hypothesis.settings.register_profile("trainyard", deadline=None)
hypothesis.settings.load_profile("trainyard")
