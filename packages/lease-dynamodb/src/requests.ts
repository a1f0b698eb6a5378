/** The requests that the substrate sends: each ends with its call, and its failures are explained. */
import {
  BatchGetItemCommand,
  DeleteItemCommand,
  DescribeTableCommand,
  GetItemCommand,
  QueryCommand,
  TransactWriteItemsCommand,
  UpdateItemCommand,
  type BatchGetItemCommandOutput,
  type DescribeTableCommandOutput,
  type GetItemCommandOutput,
  type KeysAndAttributes,
  type QueryCommandOutput,
  type UpdateItemCommandOutput,
} from '@aws-sdk/client-dynamodb'
import type { Call } from 'lease-core/adapter'
import type { DynamodbDriver, Item } from './driver.ts'
import { explained, ofRead, type Cancellation } from './explain.ts'
import { HASH, isUnchanged, RANGE, updateOf, type State } from './layout.ts'

/** When a request ends, answered or not. */
export type Abortable = Pick<Call, 'signal' | 'onAbort'>

/** What became of a write: done, or the item was not as expected. `found` is undefined where the answer does not say it. */
export type Written = { readonly isDone: true } | { readonly isDone: false; readonly found: Item | undefined }

/** One write. */
export interface Write {
  readonly lease: string
  /** The version that the item must have; undefined: it must be absent. */
  readonly was: string | undefined
  readonly after: State | 'deleted'
}

/** The most keys in one BatchGetItem. */
const LARGEST_BATCH = 100

export class Requests {
  readonly #driver: DynamodbDriver
  readonly #table: string
  readonly #namespace: string

  constructor(driver: DynamodbDriver, table: string, namespace: string) {
    this.#driver = driver
    this.#table = table
    this.#namespace = namespace
  }

  /** Of a lease. */
  key(lease: string): Item {
    return { [HASH]: { S: this.#namespace }, [RANGE]: { S: lease } }
  }

  async get(lease: string, call: Abortable): Promise<Item | undefined> {
    const input = { TableName: this.#table, Key: this.key(lease), ConsistentRead: true }
    return (await this.#read<GetItemCommandOutput>(new GetItemCommand(input), call)).Item
  }

  /** The items that there are of these leases. */
  async getAll(leases: readonly string[], call: Abortable): Promise<readonly Item[]> {
    const [first, ...others] = new Set(leases)
    if (first === undefined) return []
    if (others.length === 0) return [await this.get(first, call)].filter((item) => item !== undefined)
    const names = [first, ...others]
    const parts: string[][] = []
    for (let from = 0; from < names.length; from += LARGEST_BATCH) parts.push(names.slice(from, from + LARGEST_BATCH))
    return (await Promise.all(parts.map((part) => this.#batch(part, call)))).flat()
  }

  async #batch(leases: readonly string[], call: Abortable): Promise<readonly Item[]> {
    const found: Item[] = []
    let keys: KeysAndAttributes | undefined = { Keys: leases.map((lease) => this.key(lease)), ConsistentRead: true }
    while (keys !== undefined) {
      const command = new BatchGetItemCommand({ RequestItems: { [this.#table]: keys } })
      const answer: BatchGetItemCommandOutput = await this.#read(command, call)
      found.push(...Object.values(answer.Responses ?? {}).flat())
      keys = Object.values(answer.UnprocessedKeys ?? {})[0]
    }
    return found
  }

  /** All items of the namespace whose name begins so. */
  async query(prefix: string, call: Abortable): Promise<readonly Item[]> {
    const found: Item[] = []
    let from: Item | undefined
    do {
      const command = new QueryCommand({
        TableName: this.#table,
        ConsistentRead: true,
        KeyConditionExpression: prefix === '' ? '#ns = :ns' : '#ns = :ns AND begins_with(#nm, :nm)',
        ExpressionAttributeNames: { '#ns': HASH, ...(prefix !== '' && { '#nm': RANGE }) },
        ExpressionAttributeValues: { ':ns': { S: this.#namespace }, ...(prefix !== '' && { ':nm': { S: prefix } }) },
        ...(from !== undefined && { ExclusiveStartKey: from }),
      })
      const answer: QueryCommandOutput = await this.#read(command, call)
      found.push(...(answer.Items ?? []))
      from = answer.LastEvaluatedKey
    } while (from !== undefined)
    return found
  }

  async write({ lease, was, after }: Write, call: Abortable): Promise<Written> {
    const key = this.key(lease)
    const refusal = { ReturnValuesOnConditionCheckFailure: 'ALL_OLD' } as const
    const command =
      after === 'deleted'
        ? new DeleteItemCommand({ TableName: this.#table, Key: key, ...isUnchanged(was), ...refusal })
        : new UpdateItemCommand({ ...updateOf({ table: this.#table, key, was, state: after }), ...refusal })
    try {
      await this.#send<UpdateItemCommandOutput>(command, call)
      return { isDone: true }
    } catch (error) {
      if (!isNamed(error, 'ConditionalCheckFailedException')) throw explained(error)
      return { isDone: false, found: (error as { readonly Item?: Item }).Item }
    }
  }

  /** Does all of these or none. `token`: the same for copies of the same request. */
  async transact(
    writes: readonly (Write & { readonly after: State })[],
    token: string,
    call: Abortable,
  ): Promise<readonly Written[]> {
    const command = new TransactWriteItemsCommand({
      ClientRequestToken: token,
      TransactItems: writes.map(({ lease, was, after }) => ({
        Update: {
          ...updateOf({ table: this.#table, key: this.key(lease), was, state: after }),
          ReturnValuesOnConditionCheckFailure: 'ALL_OLD',
        },
      })),
    })
    try {
      await this.#send(command, call)
      return writes.map(() => ({ isDone: true }))
    } catch (error) {
      const { CancellationReasons = [] } = error as { readonly CancellationReasons?: readonly Cancellation[] }
      const failed = CancellationReasons.filter(({ Code = 'None' }) => Code !== 'None')
      const isUnmet = failed.length > 0 && failed.every(({ Code }) => Code === 'ConditionalCheckFailed')
      if (!isNamed(error, 'TransactionCanceledException') || !isUnmet) throw explained(error)
      return CancellationReasons.map(({ Code, Item }) =>
        Code === 'ConditionalCheckFailed' ? { isDone: false, found: Item as Item | undefined } : { isDone: true },
      )
    }
  }

  describe(call: Abortable): Promise<DescribeTableCommandOutput> {
    return this.#read(new DescribeTableCommand({ TableName: this.#table }), call)
  }

  async #read<Output>(command: object, call: Abortable): Promise<Output> {
    try {
      return await this.#send(command, call)
    } catch (error) {
      throw ofRead(error)
    }
  }

  async #send<Output>(command: object, call: Abortable): Promise<Output> {
    if (call.onAbort === undefined) return (await this.#driver.send(command, { abortSignal: call.signal })) as Output
    const controller = new AbortController()
    call.onAbort((why) => controller.abort(why))
    return (await this.#driver.send(command, { abortSignal: controller.signal })) as Output
  }
}

export function isNamed(error: unknown, name: string): boolean {
  return error instanceof Error && error.name === name
}
