/** The table: how to make it, and what may be wrong with it. */
import {
  CreateTableCommand,
  DescribeTableCommand,
  UpdateTimeToLiveCommand,
  type DescribeTableCommandOutput,
} from '@aws-sdk/client-dynamodb'
import { sleep, systemClock, type Clock } from 'lease-core'
import { OptionReader, StoreFailure, type SubstrateWarning } from 'lease-core/adapter'
import type { DynamodbDriver } from './driver.ts'
import { explained, isNamed } from './explain.ts'
import { EXPIRES, HASH, RANGE, SCHEMA } from './layout.ts'
import { checkTable } from './options.ts'

/** What `createTable` needs to know. */
export interface CreateTableOptions {
  /** A `DynamoDBClient` whose credentials may create tables. */
  readonly client: DynamodbDriver
  readonly table: string
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** While a table is being made it is looked at so often, in milliseconds. */
const LOOK_MS = 500
/** How long to wait for that. */
const LONGEST_MS = 300_000

/**
 * Makes the table, with on-demand billing, and lets DynamoDB delete what is vacant for a week. Resolves when the table can be used. Does
 * nothing to a table that is there.
 *
 * @throws ErrNotValid with every problem of the options
 * @throws StoreFailure a right is missing, the table has another primary key, or it is not ready after five minutes
 */
export async function createTable(options: CreateTableOptions): Promise<void> {
  const { client, table, clock = systemClock } = checked(options)
  const untilMs = clock.monotonic() + LONGEST_MS
  await orExplain(
    client.send(new CreateTableCommand({ TableName: table, ...SCHEMA, BillingMode: 'PAY_PER_REQUEST' })),
    'ResourceInUseException', // it is there
  )
  for (;;) {
    const description = (await orExplain(
      client.send(new DescribeTableCommand({ TableName: table })),
      'ResourceNotFoundException', // its creation is not to be seen everywhere at once
    )) as DescribeTableCommandOutput | undefined
    if (description?.Table?.TableStatus === 'ACTIVE') {
      const rule = brokenSchemaRule(description)
      if (rule !== undefined) throw new StoreFailure(`the table ${table} ${rule}`, { isSetUp: true, isNotDone: true })
      break
    }
    if (clock.monotonic() > untilMs) throw new StoreFailure(`the table ${table} is not ready after five minutes`)
    await sleep(clock, LOOK_MS)
  }
  const specification = { AttributeName: EXPIRES, Enabled: true }
  await orExplain(
    client.send(new UpdateTimeToLiveCommand({ TableName: table, TimeToLiveSpecification: specification })),
    'ValidationException', // it is enabled
  )
}

function checked(options: CreateTableOptions): CreateTableOptions {
  const reader = new OptionReader(options, ['client', 'table', 'clock'])
  checkTable(reader)
  reader.clock()
  reader.finish()
  return reader.read
}

/** @param expected the name of an error that is none here */
async function orExplain<T>(answer: Promise<T>, expected: string): Promise<T | undefined> {
  try {
    return await answer
  } catch (error) {
    if (isNamed(error, expected)) return undefined
    throw explained(error)
  }
}

function brokenSchemaRule({ Table }: DescribeTableCommandOutput): string | undefined {
  const keys = (Table?.KeySchema ?? []).map(({ AttributeName = '', KeyType = '' }) => {
    const definition = Table?.AttributeDefinitions?.find((one) => one.AttributeName === AttributeName)
    return `${KeyType} ${AttributeName} (${definition?.AttributeType ?? '?'})`
  })
  const expected = [`HASH ${HASH} (S)`, `RANGE ${RANGE} (S)`]
  return keys.join() === expected.join()
    ? undefined
    : `has the primary key ${keys.join(', ')}, and must have ${expected.join(', ')}`
}

/** What is wrong with the set-up of the table. */
export function tableWarnings(description: DescribeTableCommandOutput): readonly SubstrateWarning[] {
  const { Replicas = [], MultiRegionConsistency = 'EVENTUAL' } = description.Table ?? {}
  if (Replicas.length === 0 || MultiRegionConsistency === 'STRONG') return []
  const warning = 'global-table'
  const message =
    'The table is replicated to other regions without strong consistency: clients of two regions can hold the same lease. Use one region for all clients of a lease, or a table of its own that is not replicated.'
  return [{ warning, message }]
}
