/** The substrate on DynamoDB: one item for each lease (`layout.ts`). What becomes of it is decided in core (`RecordSubstrate`). */
import { systemClock, type Trapdoor } from 'lease-core'
import { RecordSubstrate, type Call, type Substrate, type SubstrateWarning } from 'lease-core/adapter'
import { DynamodbStore } from './dynamodb-store.ts'
import { dynamoTrapdoor } from './guard.ts'
import { parseOptions, type DynamodbSubstrateOptions } from './options.ts'
import { tableWarnings } from './table.ts'

export class DynamodbSubstrate extends RecordSubstrate {
  /** Each operation is a request of its own. At most as many are under way as the SDK has sockets, which is 50. */
  readonly limits: Substrate['limits'] = { maxOps: 10, maxInFlight: 5, enoughOps: 1 }
  readonly page: string = 'docs/substrates/dynamodb.md'
  readonly #table: string
  readonly #store: DynamodbStore

  /** @throws ErrNotValid with every problem */
  constructor(options: DynamodbSubstrateOptions) {
    const { client, table, namespace, clock = systemClock, ...more } = parseOptions(options, { client: false })
    const store = new DynamodbStore(client, table, namespace)
    super({ store, clock, maxSkewMs: more.maxSkewMs, onWarning: more.onWarning, unreadable })
    this.#table = table
    this.#store = store
  }

  async inspect(call: Call): Promise<readonly SubstrateWarning[]> {
    return tableWarnings(await this.#store.describe(call))
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return dynamoTrapdoor({ table: this.#table, key: this.#store.key(lease), lease, holder, fencingToken })
  }
}

function unreadable(lease: string, reason: string): SubstrateWarning {
  return {
    warning: 'unreadable-item',
    message: `What is stored of lease ${JSON.stringify(lease)} is not a lease, and was passed over: nobody can claim it. ${reason} Remove the item, or choose another table or namespace.`,
  }
}
