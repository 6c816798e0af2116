"""`data download`: a data set's official files, fetched, checked and unpacked into the layout that its tasks read."""


class DownloadError(RuntimeError):
    """A download that cannot be finished now; one line with the file, its address or place, and the fix."""
