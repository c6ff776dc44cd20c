"""ConvNeXt-style backbones for vaekit; entry points lead to `encoder` and `decoder`."""
