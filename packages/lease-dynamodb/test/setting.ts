/** Clients of DynamoDB and substrates that are closed in the end, on a table that all test files of a run share. */
import { DynamoDBClient, type DynamoDBClientConfig } from '@aws-sdk/client-dynamodb'
import { createTable, DynamodbSubstrate, type DynamodbSubstrateOptions } from 'lease-dynamodb'
import { unique } from 'lease-scenes'

// The SDK tells of the end of Node 20 in every process.
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true'

export interface Setting extends AsyncDisposable {
  readonly client: DynamoDBClient
  readonly table: string
  /** A substrate over `client`, closed in the end. */
  substrate(options?: Partial<DynamodbSubstrateOptions>): DynamodbSubstrate
  /** A further client of the server, destroyed in the end. */
  newClient(options?: DynamoDBClientConfig): DynamoDBClient
}

/** @param endpoint where the server is */
export async function openSetting({ endpoint }: { readonly endpoint: string }): Promise<Setting> {
  const clients: DynamoDBClient[] = []
  const substrates: DynamodbSubstrate[] = []
  const newClient = (options: DynamoDBClientConfig = {}): DynamoDBClient => {
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
    const client = new DynamoDBClient({ endpoint, region: 'us-east-1', credentials, ...options })
    clients.push(client)
    return client
  }
  const client = newClient()
  const table = unique('leases')
  await createTable({ client, table })
  return {
    client,
    table,
    newClient,
    substrate(options) {
      const substrate = new DynamodbSubstrate({ client, table, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      for (const one of clients) one.destroy()
    },
  }
}
