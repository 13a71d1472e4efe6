"""The conformance kit: checks that every plugin must pass."""

from pgzoo.lab.conformance.kit import assert_conforms as assert_conforms
