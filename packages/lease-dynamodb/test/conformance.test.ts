import { QueryCommand, TransactWriteItemsCommand } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient, TransactWriteCommand } from '@aws-sdk/lib-dynamodb'
import { SubstrateClient } from 'lease-core/adapter'
import { conformance, faultsOf, type Guard, type Harness } from 'lease-core/conformance'
import { FaultySubstrate } from 'lease-core/testing'
import { DynamoGuard, dynamodbClient, DynamodbSubstrate } from 'lease-dynamodb'
import { describeWithout, sleep, unique } from 'lease-scenes'
import { startDynamodb, type Dynamodb } from 'lease-servers'
import { after, before, describe, it } from 'mocha'
import { openSetting, type Setting } from './setting.ts'

/**
 * What tries core more than the adapter takes most of the kit's time: only the matrix runs it here. The test command runs the whole kit on
 * records in memory (lease-core), and compares shares here with those in memory.
 */
const OF_THE_MATRIX: readonly string[] = [
  ...['limits', 'bad input', 'thousands at once', 'exclusion', 'faults', 'manager'],
  ...['queue', 'shares', 'notification'],
]

describe('lease-dynamodb on a local server', () => {
  // A server of its own, where there is a choice: the kit restarts it.
  const given = process.env['DYNAMODB_ENDPOINT']
  let server: Dynamodb | undefined
  let setting: Setting
  before(async () => {
    if (given === undefined) server = await startDynamodb({ durable: true })
    setting = await openSetting({ endpoint: server?.endpoint ?? given ?? '' })
  })
  after(async () => {
    await setting[Symbol.asyncDispose]()
    await server?.stop()
  })

  // A server that is slow, or has just started, has not lost the request.
  const requestTimeout = 30_000
  const harness: Harness = {
    name: 'DynamoDB',
    supports: { notifications: true, queues: true, addressed: true, shares: true, serverClock: false },
    unitMs: 250,
    sleep,
    open: async (namespace) =>
      dynamodbClient({ client: setting.newClient(), table: setting.table, namespace, requestTimeout }),
    openFaulty: async (namespace, requestTimeoutMs) => {
      const { table } = setting
      const substrate = new FaultySubstrate(new DynamodbSubstrate({ client: setting.newClient(), table, namespace }))
      return {
        client: new SubstrateClient({ substrate, requestTimeout: requestTimeoutMs }),
        faults: faultsOf(substrate),
      }
    },
    guard: guard(() => setting),
    ...(given === undefined ? { restart: async () => server?.restart() } : {}),
  }
  conformance({ describe: describeWithout(OF_THE_MATRIX, 'DynamoDB'), it, before, after }, harness)
})

/** Transactions gated by both forms of the guard's checks, in turn. They write texts beside the leases. */
function guard(setting: () => Setting): Guard {
  const partition = unique('written')
  let turn = 0
  return {
    async write(trapdoor, text) {
      const { client, table } = setting()
      const guard = new DynamoGuard()
      await trapdoor(guard)
      const name = String(++turn).padStart(6, '0')
      if (turn % 2 === 0) {
        const Item = { ns: { S: partition }, nm: { S: name }, text: { S: text } }
        const items = [...guard.checks, { Put: { TableName: table, Item } }]
        await guard.transact(items, () => client.send(new TransactWriteItemsCommand({ TransactItems: items })))
        return
      }
      const items = [{ Put: { TableName: table, Item: { ns: partition, nm: name, text } } }, ...guard.documentChecks]
      const documents = DynamoDBDocumentClient.from(client)
      await guard.transact(items, () => documents.send(new TransactWriteCommand({ TransactItems: items })))
    },
    async written() {
      const { client, table } = setting()
      const command = new QueryCommand({
        TableName: table,
        ConsistentRead: true,
        KeyConditionExpression: 'ns = :ns',
        ExpressionAttributeValues: { ':ns': { S: partition } },
      })
      return ((await client.send(command)).Items ?? []).map(({ text }) => text?.S ?? '')
    },
  }
}
