/** What may befall DynamoDB: answers that the service gives and a local server does not, stale reads, and the hands of an administrator. */
import { randomUUID } from 'node:crypto'
import {
  BatchWriteItemCommand,
  DeleteItemCommand,
  paginateQuery,
  UpdateItemCommand,
  type AttributeValue,
  type DynamoDBClient,
} from '@aws-sdk/client-dynamodb'
import type { Impairment } from 'lease-servers'
import { isRevocable } from '../chaos/event.ts'
import type { Battle } from '../ground.ts'
import type { RemoteProxy } from '../grounds/proxies.ts'
import { impairAll, someOrAll } from './connections.ts'
import { fault, type Fault, oneOf, repeatedly, some, type Span } from './strike.ts'

const USUAL: Span = { fromMs: 800, toMs: 4000 }
const SHARES = [0.05, 0.3, 1] as const
const WRITES = 'UpdateItem|PutItem|DeleteItem'
const READS = '(GetItem|BatchGetItem|Query|Scan) '
/** More than one page of a query: a page has a megabyte. */
const MANY = { items: 300, bytesEach: 6_000, atATime: 25 } as const

interface Struck {
  /** Past all proxies. */
  readonly client: DynamoDBClient
  readonly table: string
  readonly namespace: string
  /** Those of the workers of now. */
  readonly proxies: () => readonly RemoteProxy[]
}

export function dynamodbNemeses({ client, table, namespace, proxies }: Struck): readonly Fault[] {
  const answering = (name: string, choose: (battle: Battle) => readonly Impairment[]): Fault =>
    fault(name, { breaks: 'connection', lasts: USUAL }, async (battle, say) => {
      const impairments = choose(battle)
      for (const { kind: _, reply: __, ...said } of impairments as readonly { kind: string; reply?: string }[]) {
        say(JSON.stringify(said))
      }
      const struck = someOrAll(battle, proxies())
      const mends = await Promise.all(impairments.map(async (one) => impairAll(struck, one)))
      return async () => {
        for (const mend of mends) await mend()
      }
    })
  const items = async (): Promise<Record<string, AttributeValue>[]> => {
    const found: Record<string, AttributeValue>[] = []
    const query = {
      TableName: table,
      KeyConditionExpression: 'ns = :ns',
      ExpressionAttributeValues: { ':ns': { S: namespace } },
      ConsistentRead: true,
    }
    for await (const { Items = [] } of paginateQuery({ client }, query)) found.push(...Items)
    return found
  }
  const keyOf = ({ ns, nm }: Record<string, AttributeValue>): Record<string, AttributeValue> => ({
    ns: ns as AttributeValue,
    nm: nm as AttributeValue,
  })
  const byHand = (name: string, isControl: boolean, edit: (battle: Battle) => Promise<void>): Fault =>
    fault(name, { breaks: 'server', lasts: USUAL, isControl }, (battle) =>
      repeatedly(battle, { fromMs: 50, toMs: 400 }, () => edit(battle)),
    )
  return [
    answering('dynamodb-throttle', (battle) => [
      {
        kind: 'answer-requests',
        when: 'before',
        share: oneOf(battle, SHARES),
        reply: refusal(oneOf(battle, ['ProvisionedThroughputExceededException', 'ThrottlingException'])),
      },
    ]),
    answering('dynamodb-conflict', (battle) => {
      const share = oneOf(battle, SHARES)
      const conflict = { kind: 'answer-requests', when: 'before', share } as const
      return [
        { ...conflict, matching: `\\.(${WRITES}) `, reply: refusal('TransactionConflictException') },
        { ...conflict, matching: '\\.TransactWriteItems ', reply: cancelled() },
      ]
    }),
    answering('dynamodb-error', (battle) => [
      {
        kind: 'answer-requests',
        // After: it has done what was asked, and says that it has failed.
        when: oneOf(battle, ['before', 'after']),
        share: oneOf(battle, SHARES),
        reply: oneOf(battle, [httpReply(500, 'InternalServerError'), httpReply(503, 'ServiceUnavailable')]),
      },
    ]),
    answering('dynamodb-repeat', (battle) => [
      { kind: 'repeat-requests', share: oneOf(battle, SHARES), maxMs: oneOf(battle, [20, 2_000]) },
    ]),
    // What DynamoDB may do to a read that does not ask to be consistent.
    fault('dynamodb-stale-reads', { breaks: 'connection', lasts: USUAL }, async () => {
      const matching = `\\.${READS}(?!.*"ConsistentRead":true)`
      return impairAll(proxies(), { kind: 'remember-replies', forMs: 2_000, matching })
    }),
    fault('dynamodb-many', { breaks: 'server', lasts: USUAL }, async () => {
      const all = Array.from({ length: MANY.items }, (_, index) => ({ ns: namespace, nm: `filler-${index}` }))
      const write = async (request: (key: { ns: string; nm: string }) => object): Promise<void> => {
        for (let at = 0; at < all.length; at += MANY.atATime) {
          const RequestItems = { [table]: all.slice(at, at + MANY.atATime).map(request) }
          await client.send(new BatchWriteItemCommand({ RequestItems }))
        }
      }
      // Vacant, with an attribute that is none of the library's.
      const filler = { tk: { N: '1' }, note: { S: 'x'.repeat(MANY.bytesEach) } }
      await write(({ ns, nm }) => ({
        PutRequest: { Item: { ns: { S: ns }, nm: { S: nm }, v: { S: randomUUID() }, ...filler } },
      }))
      return () => write(({ ns, nm }) => ({ DeleteRequest: { Key: { ns: { S: ns }, nm: { S: nm } } } }))
    }),
    // What the documentation lets an administrator do: attributes of other names, and to free a lease.
    byHand('dynamodb-edit', false, async (battle) => {
      const all = await items()
      for (const item of some(battle, all, 3)) {
        const isFreed = isRevocable(item['nm']?.S ?? '') && item['h'] !== undefined
        await client
          .send(
            new UpdateItemCommand({
              TableName: table,
              Key: keyOf(item),
              UpdateExpression: isFreed ? 'SET v = :new REMOVE h, e, d' : 'SET note = :new',
              ConditionExpression: isFreed ? 'attribute_exists(h)' : 'attribute_exists(v)',
              ExpressionAttributeValues: { ':new': { S: randomUUID() } },
            }),
          )
          .catch(unlessGone)
      }
    }),
    // What it forbids: to delete the item of a lease that is held.
    byHand('dynamodb-delete', true, async (battle) => {
      const held = (await items()).filter(({ h }) => h !== undefined)
      for (const item of some(battle, held, 3)) {
        await client.send(new DeleteItemCommand({ TableName: table, Key: keyOf(item) }))
      }
    }),
  ]
}

/** The item may have changed since it was read. */
function unlessGone(error: unknown): void {
  if (!(error instanceof Error) || error.name !== 'ConditionalCheckFailedException') throw error
}

function refusal(type: string): string {
  return httpReply(400, type)
}

/** Transactions of the library and of the run have two items. */
function cancelled(): string {
  return httpReply(400, 'TransactionCanceledException', {
    CancellationReasons: [
      { Code: 'TransactionConflict', Message: 'Transaction is ongoing for the item' },
      { Code: 'None' },
    ],
  })
}

function httpReply(status: number, type: string, more: object = {}): string {
  const body = JSON.stringify({
    __type: `com.amazonaws.dynamodb.v20120810#${type}`,
    message: 'Said by a nemesis',
    ...more,
  })
  const headers = `content-type: application/x-amz-json-1.0\r\ncontent-length: ${Buffer.byteLength(body)}`
  return `HTTP/1.1 ${status} Said\r\n${headers}\r\n\r\n${body}`
}
