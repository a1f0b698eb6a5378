import { randomUUID } from 'node:crypto'
import {
  CreateTableCommand,
  DeleteTableCommand,
  GetItemCommand,
  waitUntilTableExists,
  type DynamoDBClient,
} from '@aws-sdk/client-dynamodb'
import { createTable } from 'lease-dynamodb'
import { startDynamodb } from 'lease-servers'
import { openDynamodb, placeAt, tablesOf } from '../adapters/dynamodb/connection.ts'
import { deliveryhero } from '../adapters/dynamodb/deliveryhero.ts'
import { dynamodbLibrary } from '../adapters/dynamodb/library.ts'
import { lockClientFailClosed, lockClientFailOpen } from '../adapters/dynamodb/lock-client.ts'
import { dynamodbTokenWrite } from '../adapters/dynamodb/token-write.ts'
import { verrouDynamodb } from '../adapters/dynamodb/verrou.ts'
import { roundTrip } from '../adapters/round-trip.ts'
import type { Place, Substrate } from '../bench.ts'
import { countedBytes } from '../counted-bytes.ts'
import { countedCalls } from '../counted-calls.ts'

/** A local server that keeps its tables in memory, or the one that DYNAMODB_ENDPOINT names. What it takes is not what DynamoDB takes. */
export const dynamodb: Substrate = {
  name: 'dynamodb',
  workloads: ['W1', 'W2', 'W3', 'W4', 'W7', 'W9'],
  adapters: [
    dynamodbLibrary,
    dynamodbTokenWrite,
    lockClientFailOpen,
    lockClientFailClosed,
    deliveryhero,
    verrouDynamodb,
    roundTrip,
  ],
  open,
  async reach(url) {
    const bytes = countedBytes()
    const beside = openDynamodb(url)
    // All clients of this process send by handlers of this class; what the SDK sends again is counted again.
    const { requestHandler } = beside.config
    const handlers = Object.getPrototypeOf(requestHandler) as Pick<typeof requestHandler, 'handle'>
    const commands = countedCalls(handlers, 'handle')
    const { items } = tablesOf(url)
    return {
      substrate: 'dynamodb',
      url,
      counts: 'process',
      commands: async () => commands(),
      messages: async () => 0, // it sends nothing unasked
      bytes,
      async roundTrip() {
        await beside.send(new GetItemCommand({ TableName: items, Key: { id: { S: 'nobody' } } }))
      },
      close: async () => beside.destroy(),
    }
  },
}

async function open(given: string | undefined = process.env['DYNAMODB_ENDPOINT']): Promise<Place> {
  const server = given ? undefined : await startDynamodb()
  const url = placeAt(server?.endpoint ?? given ?? '', randomUUID())
  const beside = openDynamodb(url)
  const close = async (): Promise<void> => {
    // A server of others is left as it was.
    if (server === undefined) await removeTables(beside, url)
    beside.destroy()
    await server?.stop()
  }
  try {
    await makeTables(beside, url)
    const about = server === undefined ? 'the server of DYNAMODB_ENDPOINT' : `dynoxide ${server.version} (in memory)`
    return { about, url, close }
  } catch (error) {
    await close().catch(() => {}) // what went wrong first counts
    throw error
  }
}

/** All but that of verrou, which makes its own. */
async function makeTables(beside: DynamoDBClient, url: string): Promise<void> {
  const { leases, items, locks, lockTable } = tablesOf(url)
  await createTable({ client: beside, table: leases })
  await makeTable(beside, items, ['id'])
  await makeTable(beside, locks, ['id'])
  await makeTable(beside, lockTable, ['lockId', 'lockGroup'])
}

/** @param keys the hash key, and the range key if there is one: texts */
async function makeTable(beside: DynamoDBClient, table: string, keys: readonly string[]): Promise<void> {
  await beside.send(
    new CreateTableCommand({
      TableName: table,
      KeySchema: keys.map((AttributeName, index) => ({ AttributeName, KeyType: index === 0 ? 'HASH' : 'RANGE' })),
      AttributeDefinitions: keys.map((AttributeName) => ({ AttributeName, AttributeType: 'S' })),
      BillingMode: 'PAY_PER_REQUEST',
    }),
  )
  await waitUntilTableExists({ client: beside, maxWaitTime: 60 }, { TableName: table })
}

/** Those that are there. */
async function removeTables(beside: DynamoDBClient, url: string): Promise<void> {
  for (const table of Object.values(tablesOf(url))) {
    await beside.send(new DeleteTableCommand({ TableName: table })).catch((error: unknown) => {
      if (!(error instanceof Error) || error.name !== 'ResourceNotFoundException') throw error
    })
  }
}
