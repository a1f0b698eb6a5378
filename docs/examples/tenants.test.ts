import { expect } from 'chai'
import { ErrClaimDenied } from 'lease-core'
import { SqlGuard } from 'lease-postgres'
import { enoughOf, freshDatabase, postgresTargets } from 'lease-servers'
import { openPool } from './plain-pg.ts'
import { failure } from './rivals.ts'
import { openTenant } from './tenants.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`example: a schema for each tenant, on ${target.name}`, () => {
    it('keeps the leases of tenants apart, whatever search_path a connection was left with', async () => {
      await using database = await freshDatabase(target)
      const pool = openPool({ connectionString: database.url, max: 1 })
      const acme = await openTenant(pool, 'acme')
      const globex = await openTenant(pool, 'globex')
      for (const path of ['acme', 'globex', 'pg_catalog']) {
        await pool.query(`SET search_path = ${path}`)
        await acme.manager.claim('nightly', `a-${path}`, { minutes: 1 })
        await globex.manager.claim('nightly', `g-${path}`, { minutes: 1 })
        const other = acme.manager.claim('nightly', 'another', { minutes: 1 })
        expect(await failure(other)).to.be.instanceOf(ErrClaimDenied)
        const guard = new SqlGuard()
        await acme.manager.token('nightly', `a-${path}`).check(guard)
        expect((await pool.query(`SELECT 1 WHERE ${guard.text}`, guard.values)).rowCount).to.equal(1)
        await acme.manager.release('nightly', `a-${path}`)
        await globex.manager.release('nightly', `g-${path}`)
      }
      for (const { manager, client } of [acme, globex]) {
        await manager.stop()
        await client.close()
      }
      await pool.end()
    })
  })
}
