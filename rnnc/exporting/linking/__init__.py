"""Linking: relocatable ELF objects to a shared object, without a linker; and archives of them."""
