/** A schema for each tenant: its leases are in tables of that schema, beside its data. */
import { Manager, type Client } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import type { Pool } from 'pg'

/** One pool serves all tenants. Table names are qualified, so the `search_path` of a connection does not matter. */
export async function openTenant(pool: Pool, tenant: string): Promise<{ manager: Manager; client: Client }> {
  await migrate(pool, { schema: tenant }) // makes the schema as well
  const client = postgresClient({ pool, namespace: 'jobs', schema: tenant })
  return { manager: new Manager({ client }), client }
}
