"""What students are before any training."""

from sdesig.sampling import PathAverage


class StudentsStart(PathAverage):
    """The step of an untrained student of depth 2 or more: its correction is made at once, in the last step too."""

    def advance(self, sde, start, end, u, memory, noise):
        moved, (drift, correction) = super().advance(sde, start, end, u, memory, noise)
        return moved if correction is None else moved + correction, (drift, None)
