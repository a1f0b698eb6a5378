/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import type { Clock } from 'lease-core'
import {
  readAdapterOptions,
  type OptionReader,
  type SubstrateClientOptions,
  type SubstrateWarning,
} from 'lease-core/adapter'
import type { DynamodbDriver } from './driver.ts'

/** What the substrate needs to know. */
export interface DynamodbSubstrateOptions {
  /** A `DynamoDBClient`. It stays yours: destroy it after the client of the leases. */
  readonly client: DynamodbDriver
  /** The table, which `createTable` makes: its name or its ARN. */
  readonly table: string
  /** Leases of different namespaces know nothing of each other. At most 255 bytes. */
  readonly namespace: string
  /**
   * Takes a lease over as soon as the clock of its holder, taken to be this much behind the clock of this process at most, has passed the
   * end of the grant: in milliseconds. **Then two holders can rely on one lease, if the clocks differ by more**; guards still hold.
   * @default never: a lease is taken over once it has been observed for its whole duration, whatever the clocks show
   */
  readonly maxSkewMs?: number | undefined
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
  /**
   * Is called for each lease that a read passes over because somebody else wrote its item, once for each lease.
   * @default nothing; `dynamodbClient` makes a `warning` event of it
   */
  readonly onWarning?: ((warning: SubstrateWarning) => void) | undefined
}

/** What `dynamodbClient` needs to know. */
export interface DynamodbOptions
  extends Omit<DynamodbSubstrateOptions, 'onWarning'>, Omit<SubstrateClientOptions, 'substrate' | 'clock'> {}

/** The options, each read once; `client` says whose they are. @throws ErrNotValid with every problem */
export function parseOptions<O extends DynamodbSubstrateOptions>(
  given: O,
  { client }: { readonly client: boolean },
): O {
  const own = ['client', 'table', 'maxSkewMs', 'clock', ...(client ? [] : ['onWarning'])]
  const options = readAdapterOptions(given, own, { client })
  const { maxSkewMs } = options.read
  checkTable(options)
  const isSkew = maxSkewMs === undefined || (Number.isFinite(maxSkewMs) && maxSkewMs >= 0)
  options.must('maxSkewMs', isSkew, 'must be a number of milliseconds from 0, such as 1000')
  options.function('onWarning')
  options.finish()
  return options.read
}

/** Checks which table it is, and the way to it. */
export function checkTable(options: OptionReader): void {
  options.object('client', 'a DynamoDBClient: new DynamoDBClient({ region })', ['send'])
  options.fault('table', brokenTableRule(options.given('table')))
}

/** The rule that this name or ARN of a table breaks; undefined: none. */
export function brokenTableRule(table: unknown): string | undefined {
  if (typeof table !== 'string') return 'must be a string: the name of a table, or its ARN'
  if (/^arn:[\w-]+:dynamodb:[\w-]+:\d*:table\/[\w.-]{3,255}$/.test(table)) return undefined
  return /^[\w.-]{3,255}$/.test(table) ? undefined : 'must have 3 to 255 letters, digits, "_", "-" or "."'
}
