/** `lease migrate`, `lease plans`, `lease collect`: the tables of PostgreSQL, and the table of DynamoDB. */
import type * as DynamodbAdapter from 'lease-dynamodb'
import type { Context } from '../context.ts'
import { parseDuration } from '../durations.ts'
import { CommandEnd, EXIT, wrongUsage } from '../exit-codes.ts'
import { optionalPackage } from '../optional-package.ts'
import { causeOf, type Store } from '../store.ts'
import { parseStoreUrl } from '../store-url.ts'

/** The flags of `lease migrate` and `lease plans`. */
export interface MigrateFlags {
  readonly dryRun?: boolean
  readonly owner?: string
}

/** The flags of `lease collect`. */
export interface CollectFlags {
  readonly retention?: string
}

/** Creates what is missing in the database; with `dryRun` it only prints the SQL, or the template of CloudFormation. Connects as the role of `LEASE_MIGRATE_URL`, if that is set. */
export async function migrateTables(context: Context, flags: MigrateFlags): Promise<number> {
  const settings = await context.settings.read({ admin: true })
  const { kind, path } = parseStoreUrl(settings.url, settings.urlFrom)
  if (kind === 'dynamodb') return migrateDynamodb(context, path, flags)
  if (kind !== 'postgres') {
    context.out.note(`${kind} needs no tables: there is nothing to migrate`)
    return EXIT.ok
  }
  const { schema, table } = settings
  const options = { schema, table, owner: flags.owner }
  const { migrate, migrationSql } = await import('lease-postgres')
  if (flags.dryRun === true) {
    context.out.line(migrationSql(options))
    return EXIT.ok
  }
  await context.mustWrite()
  return context.withStore(
    async (store) => {
      const { outdated } = await migrate(poolOf(store), options).catch((error: unknown) => {
        throw new CommandEnd(
          EXIT.unavailable,
          `the tables cannot be made: ${causeOf(error)}`,
          'LEASE_MIGRATE_URL may name a role that owns them; lease plans prints the SQL',
        )
      })
      const by = await context.settings.author()
      if (context.out.json) context.out.object({ migrated: true, by, outdated })
      else {
        context.out.line(`the tables are up to date (${store.address}), by ${by}`)
        if (outdated.length > 0) context.out.note('once no process of an earlier release runs any more, run these:')
        for (const statement of outdated) context.out.line(statement)
      }
      return EXIT.ok
    },
    { admin: true, needsNamespace: false },
  )
}

async function migrateDynamodb(context: Context, table: string, { dryRun, owner }: MigrateFlags): Promise<number> {
  if (owner !== undefined) throw wrongUsage('--owner is of PostgreSQL: a table of DynamoDB belongs to the account')
  if (dryRun === true) {
    const { cloudFormation } = await optionalPackage<typeof DynamodbAdapter>('lease-dynamodb', [
      '@aws-sdk/client-dynamodb',
    ])
    context.out.line(cloudFormation({ table }))
    return EXIT.ok
  }
  await context.mustWrite()
  return context.withStore(
    async ({ createTable, address }) => {
      await createTable?.().catch((error: unknown) => {
        throw new CommandEnd(
          EXIT.unavailable,
          `the table cannot be made: ${causeOf(error)}`,
          'lease plans prints it for CloudFormation',
        )
      })
      const by = await context.settings.author()
      if (context.out.json) context.out.object({ migrated: true, by, outdated: [] })
      else context.out.line(`the table is ready (${address}), by ${by}`)
      return EXIT.ok
    },
    { admin: true, needsNamespace: false },
  )
}

/** Removes what is left of leases that nobody has held for long. */
export async function collectTombstones(context: Context, flags: CollectFlags): Promise<number> {
  const retentionMs = parseDuration(flags.retention ?? '1d', '--retention')
  await context.mustWrite()
  return context.withStore(async (store) => {
    if (store.kind !== 'postgres') {
      context.out.note(
        store.kind === 'dynamodb'
          ? 'dynamodb deletes by itself what has been vacant for a week: there is nothing to collect'
          : `${store.kind} keeps no rows of vacant leases: there is nothing to collect`,
      )
      return EXIT.ok
    }
    const settings = await context.settings.read()
    const { collect } = await import('lease-postgres')
    const { schema, table } = settings
    const collected = await collect(poolOf(store), {
      namespace: store.namespace,
      retention: retentionMs,
      schema,
      table,
    })
    if (context.out.json) context.out.object({ collected })
    else
      context.out.line(`removed ${collected} ${collected === 1 ? 'row' : 'rows'} of leases that were vacant for longer`)
    return EXIT.ok
  })
}

function poolOf({ pool }: Store): NonNullable<Store['pool']> {
  if (pool === undefined) throw new TypeError('a store of PostgreSQL has a pool')
  return pool
}
