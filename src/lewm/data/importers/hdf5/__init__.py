"""Recordings in HDF5: one row a frame in the flat layout, or one group or one file an episode.

A camera is any dataset of pictures, with the colours last or first, or of coded ones; robomimic's ending `_image` is no
part of its name. Actions are discrete if there is one integer a frame. The task has the file's name: the environment's
description is a text attribute, and the HDF5 library reads such a text for ever in some damaged files.

The files have a habit: the last action of an episode is NaN, because nothing was done there. It leads out of the
episode and is never used, so zeros are stored for it. A NaN anywhere else makes the episode bad.
"""

from lewm.data.importers.hdf5.hdf5_source import HDF5Source

__all__ = ["HDF5Source"]
