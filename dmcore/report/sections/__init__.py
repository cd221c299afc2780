"""The sections of a report: one file a topic, each a function of the subject, listed in `dmcore.report.build`."""
