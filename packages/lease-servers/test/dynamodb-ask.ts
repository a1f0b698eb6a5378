/** Asks without an SDK; the server looks at no signature. */
export async function ask(
  endpoint: string,
  operation: string,
  input: object,
): Promise<Readonly<Record<string, unknown>>> {
  const answer = await fetch(endpoint, {
    method: 'POST',
    headers: {
      'content-type': 'application/x-amz-json-1.0',
      'x-amz-target': `DynamoDB_20120810.${operation}`,
      'x-amz-date': '20260101T000000Z',
      authorization:
        'AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0',
    },
    body: JSON.stringify(input),
  })
  return (await answer.json()) as Readonly<Record<string, unknown>>
}
