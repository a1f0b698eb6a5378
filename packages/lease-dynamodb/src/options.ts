/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import { hasMethods, type Clock } from 'lease-core'
import { OptionChecks, type SubstrateClientOptions, type SubstrateWarning } from 'lease-core/adapter'
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

/** @throws ErrNotValid with every problem; `client` says whose options they are */
export function checkOptions(
  options: DynamodbOptions & Pick<DynamodbSubstrateOptions, 'onWarning'>,
  { client }: { readonly client: boolean },
): void {
  const own = ['client', 'table', 'maxSkewMs', 'clock', ...(client ? [] : ['onWarning'])]
  const checks = new OptionChecks(options, own, { client })
  const { client: driver, table, maxSkewMs, onWarning } = options
  checks.must('client', hasMethods(driver, 'send'), 'must be a DynamoDBClient: new DynamoDBClient({ region })')
  const rule = brokenTableRule(table)
  checks.must('table', rule === undefined, rule ?? '')
  const isSkew = maxSkewMs === undefined || (Number.isFinite(maxSkewMs) && maxSkewMs >= 0)
  checks.must('maxSkewMs', isSkew, 'must be a number of milliseconds from 0, such as 1000')
  checks.must('onWarning', client || onWarning === undefined || typeof onWarning === 'function', 'must be a function')
  checks.finish()
}

/** The rule that this name or ARN of a table breaks; undefined: none. */
export function brokenTableRule(table: unknown): string | undefined {
  if (typeof table !== 'string') return 'must be a string: the name of a table, or its ARN'
  if (/^arn:[\w-]+:dynamodb:[\w-]+:\d*:table\/[\w.-]{3,255}$/.test(table)) return undefined
  return /^[\w.-]{3,255}$/.test(table) ? undefined : 'must have 3 to 255 letters, digits, "_", "-" or "."'
}
