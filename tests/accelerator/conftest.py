"""The small networks of the other tests."""

from tests.tta_core.conftest import network_of, tiny_convnet, tiny_vit

__all__ = ["network_of", "tiny_convnet", "tiny_vit"]
