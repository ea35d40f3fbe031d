from django.db import models


class Note(models.Model):
    key = models.CharField(max_length=80, primary_key=True)
    body = models.TextField()
    attachment = models.FileField(upload_to="notes", blank=True)

    def __str__(self):
        return self.key
