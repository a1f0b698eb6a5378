import { TransactWriteItemsCommand, type DynamoDBClient, type TransactWriteItem } from '@aws-sdk/client-dynamodb'
import type { Token } from 'lease-core'
import { DynamoGuard, dynamodbClient } from 'lease-dynamodb'
import { ownSeat, type Adapter, type Contestant, type Ground, type GuardedWrites } from '../../bench.ts'
import { libraryCan, libraryContestant } from '../library.ts'
import { openDynamodb, tablesOf } from './connection.ts'

/** As an application would set it up. */
export const dynamodbLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager, default options',
  can: [...libraryCan, 'guard'],
  guards: ['TransactWriteItems'],
  handOffSeconds: 0.4,
  waiters: { atMost: 64, because: 'each who waits is in the item of the lease, and all join at once' },
  open: async (ground, { space } = ownSeat()) => open(ground, space),
}

function open({ url }: Ground, namespace: string): Contestant {
  const dynamodb = openDynamodb(url)
  const { leases, items } = tablesOf(url)
  return libraryContestant({
    connect: (clock) => dynamodbClient({ client: dynamodb, table: leases, namespace, clock }),
    atEnd: async () => dynamodb.destroy(),
    guard: async (_kind, token, lane) => transaction(dynamodb, token, { table: items, id: `${namespace}/${lane}` }),
  })
}

/** One item that is written, with one check beside it or none. */
function transaction(
  dynamodb: DynamoDBClient,
  token: Token,
  { table, id }: { readonly table: string; readonly id: string },
): GuardedWrites {
  const write: TransactWriteItem = {
    Update: {
      TableName: table,
      Key: { id: { S: id } },
      UpdateExpression: 'ADD #n :one',
      ExpressionAttributeNames: { '#n': 'n' },
      ExpressionAttributeValues: { ':one': { N: '1' } },
    },
  }
  const send = (TransactItems: TransactWriteItem[]): Promise<unknown> =>
    dynamodb.send(new TransactWriteItemsCommand({ TransactItems }))
  return {
    async guarded() {
      const guard = new DynamoGuard()
      await token.check(guard)
      const items = [...guard.checks, write]
      await guard.transact(items, () => send(items))
    },
    async plain() {
      await send([write])
    },
  }
}
