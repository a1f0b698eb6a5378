/** The records of one namespace as items of a table: each request ends with its call, and its failures are explained. */
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
  type TransactWriteItem,
} from '@aws-sdk/client-dynamodb'
import type { Abortable, FoundRecords, LeaseRecord, RecordStore, RecordWrite, Written } from 'lease-core/adapter'
import type { DynamodbDriver, Item } from './driver.ts'
import { explained, isNamed, ofRead, type Cancellation } from './explain.ts'
import { isUnchanged, placeholders, replaceAttributes } from './expressions.ts'
import { attributesOf, HASH, nameOf, RANGE, recordIn } from './layout.ts'

/** The most keys in one BatchGetItem. */
const LARGEST_BATCH = 100

export class DynamodbStore implements RecordStore {
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

  async read(leases: readonly string[], call: Abortable): Promise<FoundRecords> {
    const names = [...new Set(leases)]
    const [only] = names
    if (only !== undefined && names.length === 1) return recordsIn(await this.#get(only, call))
    const parts: string[][] = []
    for (let from = 0; from < names.length; from += LARGEST_BATCH) parts.push(names.slice(from, from + LARGEST_BATCH))
    return recordsIn((await Promise.all(parts.map((part) => this.#batch(part, call)))).flat())
  }

  async #get(lease: string, call: Abortable): Promise<readonly Item[]> {
    const input = { TableName: this.#table, Key: this.key(lease), ConsistentRead: true }
    const { Item: found } = await this.#read<GetItemCommandOutput>(new GetItemCommand(input), call)
    return found === undefined ? [] : [found]
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

  async readAll(prefix: string, call: Abortable): Promise<FoundRecords> {
    const ns = { S: this.#namespace }
    const condition =
      prefix === ''
        ? { KeyConditionExpression: '#ns = :ns', ...placeholders([HASH], { ns }) }
        : {
            KeyConditionExpression: '#ns = :ns AND begins_with(#nm, :nm)',
            ...placeholders([HASH, RANGE], { ns, nm: { S: prefix } }),
          }
    const found: Item[] = []
    let from: Item | undefined
    do {
      const page = from === undefined ? {} : { ExclusiveStartKey: from }
      const command = new QueryCommand({ TableName: this.#table, ConsistentRead: true, ...condition, ...page })
      const answer: QueryCommandOutput = await this.#read(command, call)
      found.push(...(answer.Items ?? []))
      from = answer.LastEvaluatedKey
    } while (from !== undefined)
    return recordsIn(found)
  }

  async write(writes: readonly RecordWrite[], call: Abortable): Promise<readonly Written[]> {
    const items = writes.map((write) => this.#itemOf(write))
    try {
      await this.#send(commandOf(items), call)
    } catch (error) {
      const written = writtenIn(error)
      if (written === undefined) throw explained(error)
      return written
    }
    return writes.map(() => ({ isMet: true }))
  }

  #itemOf({ lease, was, after }: RecordWrite): TransactWriteItem {
    const about = {
      TableName: this.#table,
      Key: this.key(lease),
      ReturnValuesOnConditionCheckFailure: 'ALL_OLD',
    } as const
    return after === 'deleted'
      ? { Delete: { ...about, ...isUnchanged(was) } }
      : { Update: { ...about, ...replaceAttributes(was, attributesOf(after)) } }
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

/** One item is half the price of a transaction. */
function commandOf(items: TransactWriteItem[]): object {
  const [only] = items
  if (items.length > 1 || only === undefined) return new TransactWriteItemsCommand({ TransactItems: items })
  return only.Update === undefined ? new DeleteItemCommand(only.Delete as never) : new UpdateItemCommand(only.Update)
}

function recordsIn(items: readonly Item[]): FoundRecords {
  return new Map(items.map((item) => [nameOf(item), recordIn(item)]))
}

/** What became of each write where nothing but conditions was in the way. @throws StoreFailure somebody else wrote an item */
function writtenIn(error: unknown): readonly Written[] | undefined {
  if (isNamed(error, 'ConditionalCheckFailedException')) return [unmet((error as { readonly Item?: Item }).Item)]
  if (!isNamed(error, 'TransactionCanceledException')) return undefined
  const { CancellationReasons = [] } = error as { readonly CancellationReasons?: readonly Cancellation[] }
  const failed = CancellationReasons.filter(({ Code = 'None' }) => Code !== 'None')
  if (failed.length === 0 || failed.some(({ Code }) => Code !== 'ConditionalCheckFailed')) return undefined
  return CancellationReasons.map((reason) =>
    failed.includes(reason) ? unmet(reason.Item as Item | undefined) : { isMet: true },
  )
}

function unmet(item: Item | undefined): Written {
  const found: LeaseRecord | Error | undefined = item === undefined ? undefined : recordIn(item)
  if (found instanceof Error) throw found
  return { isMet: false, found }
}
