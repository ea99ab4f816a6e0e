"""Send the mails that nobody has sent yet: `manage.py send_mails`, by cron on every host."""

import time

from django.core.management.base import BaseCommand
from shop.models import Mail

from advlock.django import singleton


@singleton
class Command(BaseCommand):
    """Send the mails."""

    def handle(self, **_: object) -> None:
        """Send one after the other; nobody else does so meanwhile."""
        for mail in Mail.objects.filter(sent=False).select_related("customer").order_by("id"):
            time.sleep(0.3)  # the mail server is slow
            self.stdout.write(str(mail))
            mail.sent = True
            mail.save()
