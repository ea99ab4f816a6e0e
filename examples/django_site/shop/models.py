"""Customers, and the mails that they are to get."""

from django.db import models


class Customer(models.Model):
    """Somebody who has an address."""

    email = models.TextField()

    class Meta:
        """An index to find them by it."""

        indexes = (models.Index(fields=["email"], name="customer_email"),)

    def __str__(self) -> str:
        """Say who it is."""
        return self.email


class Mail(models.Model):
    """A mail to somebody, to be sent once."""

    customer = models.ForeignKey(Customer, models.CASCADE)
    sent = models.BooleanField(default=False)

    def __str__(self) -> str:
        """Say to whom."""
        return f"mail to {self.customer}"
