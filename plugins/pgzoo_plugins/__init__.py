"""pgzoo's built-in plugins, one short file each; they use only pgzoo's public interface."""
