/**
 * A log for each account in DynamoDB, in the order in which the store has written its lines. A line goes to the end of the list of one item;
 * an item that has so many lines is never written again, and the next one follows it. So no item outgrows what DynamoDB takes.
 */
import { GetItemCommand, TransactWriteItemsCommand, type DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient, TransactWriteCommand } from '@aws-sdk/lib-dynamodb'
import type { DynamoGuard } from 'lease-dynamodb'

const MOST_LINES = 500
const UPDATE = {
  UpdateExpression: 'SET #lines = list_append(if_not_exists(#lines, :none), :more)',
  ConditionExpression: 'attribute_not_exists(#lines) OR size(#lines) < :most',
  ExpressionAttributeNames: { '#lines': 'lines' },
}

type Checks = DynamoGuard['checks']
type DocumentChecks = DynamoGuard['documentChecks']
/** Sends these items, in a way of the caller's: a guard explains what comes back. */
type Sent = (items: readonly object[], send: () => Promise<unknown>) => Promise<unknown>

export class DynamodbLog {
  readonly #client: DynamoDBClient
  readonly #documents: DynamoDBDocumentClient
  readonly #table: string
  readonly #partition: string
  /** The item of each account that may have room. */
  readonly #open = new Map<string, number>()

  constructor(client: DynamoDBClient, table: string, namespace: string) {
    this.#client = client
    this.#documents = DynamoDBDocumentClient.from(client)
    this.#table = table
    this.#partition = `accounts of ${namespace}`
  }

  /** Appends in one transaction with these checks. Rejects with what `sent` throws. */
  async append(account: string, line: string, checks: Checks = [], sent: Sent = sentPlain): Promise<void> {
    const values = { ':none': { L: [] }, ':more': { L: [{ S: line }] }, ':most': { N: String(MOST_LINES) } }
    await this.#whereRoomIs(account, async (part) => {
      const Key = { ns: { S: this.#partition }, nm: { S: keyOf(account, part) } }
      const TransactItems = [
        ...checks,
        { Update: { TableName: this.#table, ...UPDATE, Key, ExpressionAttributeValues: values } },
      ]
      await sent(TransactItems, () => this.#client.send(new TransactWriteItemsCommand({ TransactItems })))
    })
  }

  /** The same by the document client of lib-dynamodb. */
  async appendDocument(account: string, line: string, checks: DocumentChecks, sent: Sent): Promise<void> {
    const values = { ':none': [], ':more': [line], ':most': MOST_LINES }
    await this.#whereRoomIs(account, async (part) => {
      const Key = { ns: this.#partition, nm: keyOf(account, part) }
      const TransactItems = [
        ...checks,
        { Update: { TableName: this.#table, ...UPDATE, Key, ExpressionAttributeValues: values } },
      ]
      await sent(TransactItems, () => this.#documents.send(new TransactWriteCommand({ TransactItems })))
    })
  }

  /** All lines, in their order. */
  async read(account: string): Promise<string[]> {
    const lines: string[] = []
    for (let part = 0; ; part++) {
      const Key = { ns: { S: this.#partition }, nm: { S: keyOf(account, part) } }
      const input = { TableName: this.#table, Key, ConsistentRead: true }
      const { Item } = await this.#client.send(new GetItemCommand(input))
      if (Item === undefined) return lines
      lines.push(...(Item['lines']?.L ?? []).map(({ S = '' }) => S))
    }
  }

  async #whereRoomIs(account: string, append: (part: number) => Promise<void>): Promise<void> {
    for (let part = this.#open.get(account) ?? 0; ; part++) {
      try {
        await append(part)
        return
      } catch (error) {
        if (!isFull(error)) throw error
      } finally {
        this.#open.set(account, part)
      }
    }
  }
}

const sentPlain: Sent = (_, send) => send()

function keyOf(account: string, part: number): string {
  return `${account}/${part}`
}

/** The condition of the last item of the transaction has failed: that of the log. */
function isFull(error: unknown): boolean {
  const { CancellationReasons = [] } = error as { readonly CancellationReasons?: readonly { readonly Code?: string }[] }
  return CancellationReasons.at(-1)?.Code === 'ConditionalCheckFailed'
}
