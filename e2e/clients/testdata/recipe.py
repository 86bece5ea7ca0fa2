# The recipe of Medplum's page "Subscription Extensions" (Apache-2.0, Medplum contributors) for
# Python, without Flask.
import base64, hashlib, hmac, json, os, sys

request = json.load(sys.stdin)
secret = os.environ["SECRET"].encode()
message = base64.b64decode(request["body"])
signature = hmac.new(secret, message, hashlib.sha256).hexdigest()
print("verified" if signature == request["headers"].get("x-signature") else "refused")
