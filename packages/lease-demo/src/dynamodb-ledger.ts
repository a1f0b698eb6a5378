/** The accounts in DynamoDB, beside the leases, in one table. */
import {
  DeleteTableCommand,
  DynamoDBClient,
  GetItemCommand,
  PutItemCommand,
  QueryCommand,
  TransactWriteItemsCommand,
  type AttributeValue,
  type TransactWriteItem,
} from '@aws-sdk/client-dynamodb'
import type { Client, Token } from 'lease-core'
import { createTable, dynamodbClient, DynamoGuard } from 'lease-dynamodb'
import { startDynamodb } from 'lease-servers'
import type { Entry } from './books.ts'
import type { Balances, LedgerOffice, Posting, Site, Venue, Write } from './ledger.ts'

// The SDK tells of the end of Node 20 in every process.
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true'

export const dynamodb: Venue = {
  name: 'DynamoDB',
  variable: 'DYNAMODB_ENDPOINT',
  title: 'dynoxide, a local DynamoDB',
  apart: 'a table',
  async start() {
    const server = await startDynamodb()
    return {
      url: server.endpoint,
      description: `dynoxide ${server.version}, a local DynamoDB, started for this demo at ${server.endpoint}`,
      [Symbol.asyncDispose]: async () => server[Symbol.asyncDispose](),
    }
  },
  officeAt: (site) => new DynamodbLedger(site),
}

/** The partition of the accounts. The leases have another one. */
const BOOKS = 'books'

class DynamodbLedger implements LedgerOffice {
  readonly client: Client
  readonly #dynamodb: DynamoDBClient
  readonly #table: string

  constructor({ url, scope }: Site) {
    // A local server takes any credentials.
    const isLocal = process.env['AWS_ACCESS_KEY_ID'] === undefined
    this.#dynamodb = new DynamoDBClient({
      endpoint: url,
      region: process.env['AWS_REGION'] ?? 'us-east-1',
      ...(isLocal && { credentials: { accessKeyId: 'demo', secretAccessKey: 'demo' } }),
    })
    this.#table = scope
    this.client = dynamodbClient({ client: this.#dynamodb, table: this.#table, namespace: 'accounts' })
  }

  async balances(accounts: readonly string[]): Promise<Balances> {
    const balances = accounts.map(async (account) => {
      return [account, Number((await this.#account(account))['balance']?.N)] as const
    })
    return Object.fromEntries(await Promise.all(balances))
  }

  readonly write: Write = async (postings) => {
    await this.#transact(postings, this.#updates(postings))
  }

  async guard(tokens: readonly Token[]): Promise<Write> {
    const guard = new DynamoGuard()
    for (const token of tokens) await token.check(guard)
    return async (postings) => {
      const items = [...guard.checks, ...this.#updates(postings)]
      await guard.transact(items, async () => this.#transact(postings, items))
    }
  }

  async hasEntry({ account, fencingToken }: Pick<Entry, 'account' | 'fencingToken'>): Promise<boolean> {
    return entriesOf(await this.#account(account)).some((entry) => entry.fencingToken === fencingToken)
  }

  async open(opening: Balances): Promise<void> {
    await createTable({ client: this.#dynamodb, table: this.#table })
    for (const [account, money] of Object.entries(opening)) {
      const Item = { ...keyOf(account), balance: { N: String(money) }, entries: { L: [] } }
      await this.#dynamodb.send(new PutItemCommand({ TableName: this.#table, Item }))
    }
  }

  /** Those of each account in their order, one account after the other: of two accounts nobody knows which came first. */
  async entries(): Promise<readonly Entry[]> {
    const { Items = [] } = await this.#dynamodb.send(
      new QueryCommand({
        TableName: this.#table,
        KeyConditionExpression: 'ns = :books',
        ExpressionAttributeValues: { ':books': { S: BOOKS } },
        ConsistentRead: true,
      }),
    )
    return Items.flatMap(entriesOf)
  }

  async drop(): Promise<void> {
    try {
      await this.#dynamodb.send(new DeleteTableCommand({ TableName: this.#table }))
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'ResourceNotFoundException') throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close()
    this.#dynamodb.destroy()
  }

  async #account(account: string): Promise<Record<string, AttributeValue>> {
    const input = { TableName: this.#table, Key: keyOf(account), ConsistentRead: true }
    return (await this.#dynamodb.send(new GetItemCommand(input))).Item ?? {}
  }

  #updates(postings: readonly Posting[]): TransactWriteItem[] {
    return postings.map(({ balance, ...entry }) => ({
      Update: {
        TableName: this.#table,
        Key: keyOf(entry.account),
        UpdateExpression: 'SET balance = :balance, entries = list_append(entries, :entry)',
        ExpressionAttributeValues: {
          ':balance': { N: String(balance) },
          ':entry': { L: [{ S: JSON.stringify({ ...entry, fencingToken: String(entry.fencingToken) }) }] },
        },
      },
    }))
  }

  /** The same postings have the same request token, by which DynamoDB knows for ten minutes that it has done this. */
  async #transact(postings: readonly Posting[], TransactItems: TransactWriteItem[]): Promise<void> {
    const ClientRequestToken = postings.map(({ fencingToken }) => fencingToken).join('-')
    await this.#dynamodb.send(new TransactWriteItemsCommand({ TransactItems, ClientRequestToken }))
  }
}

function keyOf(account: string): Record<'ns' | 'nm', AttributeValue> {
  return { ns: { S: BOOKS }, nm: { S: account } }
}

function entriesOf(item: Record<string, AttributeValue>): Entry[] {
  return (item['entries']?.L ?? []).map(({ S = '' }) => {
    const entry = JSON.parse(S) as Omit<Entry, 'fencingToken'> & { fencingToken: string }
    return { ...entry, fencingToken: BigInt(entry.fencingToken) }
  })
}
