/** What a process needs for DynamoDB: loaded by `loadStore` where it is needed. */
import { DynamoDBClient } from '@aws-sdk/client-dynamodb'

export { createTable, dynamodbClient, DynamoGuard, DynamodbSubstrate } from 'lease-dynamodb'
export { DynamodbLog } from './dynamodb-log.ts'

/** The SDK's own time-out: it sends such a request again while the library still waits. */
const REQUEST_MS = 500

// It tells of the end of Node 20 in every process, and a warning in a worker is a finding.
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true'

/** A client of the DynamoDB at `dynamodb://host:port/table`, with the retries of the SDK, and the table. */
export function openDynamodb({ url }: { readonly url: string }): {
  readonly client: DynamoDBClient
  readonly table: string
} {
  const { host, pathname } = new URL(url)
  const client = new DynamoDBClient({
    endpoint: `http://${host}`,
    region: 'us-east-1',
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
    requestHandler: { connectionTimeout: REQUEST_MS, requestTimeout: REQUEST_MS, throwOnRequestTimeout: true },
  })
  return { client, table: pathname.slice(1) }
}
