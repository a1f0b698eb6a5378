/** A pool that others have used up, and what its owner does with each of its connections. */
import { expect } from 'chai'
import { enoughOf, postgresTargets, until } from 'lease-servers'
import { migrate, type PostgresPool } from 'lease-postgres'
import type { Pool, PoolClient } from 'pg'
import { claim, newCall, noneUnheard, sleep, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

type Hook = (client: PoolClient) => Promise<unknown>

/** How an application prepares each connection of a pool. */
const WAYS: Readonly<Record<string, (open: (config?: object) => Pool, hook: Hook) => Pool>> = {
  'a listener of `connect`': (open, hook) => open().on('connect', (client) => void hook(client)),
  'a listener of `acquire`': (open, hook) => open().on('acquire', (client) => void hook(client)),
  'the option `onConnect`': (open, hook) => open({ onConnect: hook }),
  'the option `verify`': (open, hook) =>
    open({
      verify: (client: PoolClient, answer: (error?: unknown) => void) => {
        hook(client).then(() => answer(), answer)
      },
    }),
}

for (const target of enoughOf(postgresTargets())) {
  describe(`a connection beside the pool, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
      await setting.pool.query('CREATE SCHEMA tenant')
      const options = { connectionString: setting.directUrl, options: '-c search_path=tenant' }
      await migrate(setting.newPool(options))
    })
    after(() => setting[Symbol.asyncDispose]())

    const usedUp = async (pool: Pool): Promise<() => void> => {
      const taken = await pool.connect()
      return () => taken.release()
    }
    const schemasOf = async (lease: string): Promise<string[]> => {
      const { rows } = await setting.pool.query(
        `SELECT 'public' AS schema FROM public.lease WHERE name = $1 UNION ALL SELECT 'tenant' FROM tenant.lease WHERE name = $1`,
        [lease],
      )
      return rows.map(({ schema }) => schema)
    }

    for (const [way, poolWith] of Object.entries(WAYS)) {
      it(`finds the leases where the pool does, by ${way}`, async () => {
        const counts = { connect: 0, acquire: 0, release: 0, remove: 0 }
        const pool = poolWith(
          (config) => setting.newPool({ max: 1, ...config }),
          (client) => client.query('SET search_path = tenant'),
        )
        for (const event of ['connect', 'acquire', 'release', 'remove'] as const)
          pool.on(event as 'connect', () => counts[event]++)
        const lease = unique('l')
        const substrate = setting.substrate({ pool, listen: false })
        const free = await usedUp(pool)
        const [verdict] = await substrate.apply([claim(lease, 'a', 60_000)], newCall({ timeoutMs: 4_000 }))
        expect(verdict?.outcome).to.equal('granted')
        expect(await schemasOf(lease)).to.deep.equal(['tenant'])
        free()
        await until('the listeners of the pool have heard of its end', () => counts.remove >= 1)
        expect(counts.connect).to.equal(2)
        await until('all was given back', () => counts.acquire === counts.release)
      })
    }

    for (const way of ['the option `onConnect`', 'the option `verify`']) {
      for (const [how, fail] of Object.entries({
        fails: () => Promise.reject(new Error('no role')),
        'does not end': () => new Promise<never>(() => {}),
      })) {
        it(`is not used where ${way} ${how}`, async () => {
          let isFirst = true
          const application = unique('hooks')
          const pool = (WAYS[way] ?? expect.fail())(
            (config) => setting.newPool({ max: 1, application_name: application, ...config }),
            async () => {
              if (isFirst) isFirst = false
              else await fail()
            },
          )
          const lease = unique('l')
          const substrate = setting.substrate({ pool, listen: false })
          const free = await usedUp(pool)
          const answer = substrate.apply([claim(lease, 'a', 60_000)], newCall({ timeoutMs: 400 }))
          await sleep(1_000)
          expect(await schemasOf(lease)).to.deep.equal([])
          await until('only the connection of the pool is left', async () => {
            const { rows } = await setting.pool.query(
              'SELECT count(*)::int AS backends FROM pg_stat_activity WHERE application_name = $1',
              [application],
            )
            return rows[0].backends === 1
          })
          free()
          expect((await answer)[0]?.outcome).to.equal('granted')
        })
      }
    }

    const hidden: Readonly<Record<string, (pool: Pool) => PostgresPool>> = {
      'whose `connect` somebody has replaced': (pool) => {
        const connect = pool.connect.bind(pool) as () => Promise<PoolClient>
        return Object.assign(pool, {
          async connect() {
            const client = await connect()
            await client.query('SET search_path = tenant')
            return client
          },
        })
      },
      'that is wrapped': (pool) => {
        const { Client, options } = pool as unknown as Required<PostgresPool>
        const connect = async (): Promise<PoolClient> => {
          const client = await pool.connect()
          await client.query('SET search_path = tenant')
          return client
        }
        return { Client, options, connect }
      },
    }

    for (const [how, hide] of Object.entries(hidden)) {
      it(`is not made beside a pool ${how}`, async () => {
        const own = setting.newPool({ max: 1 })
        const pool = hide(own)
        const lease = unique('l')
        const substrate = setting.substrate({ pool, listen: false })
        const free = await usedUp(own)
        const answer = substrate.apply([claim(lease, 'a', 60_000)], newCall({ timeoutMs: 400 }))
        await sleep(1_000)
        expect(await schemasOf(lease)).to.deep.equal([])
        free()
        expect((await answer)[0]?.outcome).to.equal('granted')
        expect(await schemasOf(lease)).to.deep.equal(['tenant'])
      })
    }

    it('listens in the state in which the pool has its connections', async () => {
      const application = unique('listens')
      const pool = setting.newPool({ max: 1 })
      pool.on('connect', (client) => void client.query(`SET application_name = '${application}'`))
      const substrate = setting.substrate({ pool })
      let isHeard = false
      const stop = substrate.watch?.(() => (isHeard = true))
      await until('the connection listens', () => isHeard)
      const { rows } = await setting.pool.query(
        `SELECT count(*)::int AS backends FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN %'`,
        [application],
      )
      expect(rows[0].backends).to.equal(1)
      stop?.()
    })
  })
}
