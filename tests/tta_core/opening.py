"""Short ways to open domains in tests: image files as they lie on disk, or what trials read."""

from tta_core.data.opened import ImageRequest


def trial_images(spec, name, severity=0, *, data_seed=0, crop=None, image_size=1, **options):
    """Images and labels as trials read them: from the cache if it has them."""
    found = ImageRequest(spec, severity, data_seed, crop, image_size).open(name, **options)
    return found.images, found.labels


def stored_images(spec, name, severity=0, crop=None, image_size=1, *, whole=True):
    """Images as their files lie on disk, and their labels."""
    request = ImageRequest(spec, severity, crop=crop, image_size=image_size)
    return request.open_files(name, whole=whole), request.open(name, whole=whole).labels


def check_domain(spec, name, severity=0, *, data_seed=None):
    """Whether the files of a domain are here."""
    ImageRequest(spec, severity, data_seed).check(name)
