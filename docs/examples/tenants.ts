/** A schema for each tenant: the leases of a tenant are in tables of its own, beside its data. */
import { Manager, type Client } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import type { Pool } from 'pg'

/** One pool serves all tenants. The names are qualified, so it does not matter which `search_path` a connection has. */
export async function openTenant(pool: Pool, tenant: string): Promise<{ manager: Manager; client: Client }> {
  await migrate(pool, { schema: tenant }) // makes the schema as well
  const client = postgresClient({ pool, namespace: 'jobs', schema: tenant })
  return { manager: new Manager({ client }), client }
}
