/** The first mistakes that everybody makes: nothing waits in silence. */
import { inspect } from 'node:util'
import { expect } from 'chai'
import { LeaseEvents, Manager } from 'lease-core'
import { migrate, migrationSql, postgresClient } from 'lease-postgres'
import { caught, failsForSetUp, leavesNoTimer, unique } from 'lease-scenes'
import { enoughOf, postgresTargets, until } from 'lease-servers'
import { Client, Pool } from 'pg'
import postgres from 'postgres'
import { openSetting, type Setting } from './setting.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`a set-up that cannot work, and a short job, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    it('fails at once where migrate() was not called', () =>
      failsForSetUp(
        postgresClient({ pool: setting.pool, namespace: unique('ns'), table: 'nobody_made_this' }),
        /migrate\(\)/,
      ))

    it('leaves no timer behind where a job holds, releases, stops and closes at once', () =>
      leavesNoTimer((clock) => postgresClient({ pool: setting.pool, namespace: unique('ns'), clock })))

    it('fails at once where the database does not exist', async () => {
      const url = new URL(setting.directUrl)
      url.pathname = '/nobody_made_this'
      const pool = setting.newPool({ connectionString: url.href })
      await failsForSetUp(postgresClient({ pool, namespace: unique('ns') }), /the database does not exist/)
    })

    for (const [options, words] of [
      ['-c statement_timeout=soon', /refuses a setting .*correct `options`.*"soon"/],
      ['-c no_such_setting=1', /does not know a setting .*correct `options`.*"no_such_setting"/],
    ] as const) {
      it(`fails at once where the server refuses ${options}`, async () => {
        const pool = setting.newPool({ connectionString: setting.directUrl, options })
        await failsForSetUp(postgresClient({ pool, namespace: unique('ns') }), words)
      })
    }

    it('fails at once where the role lacks the rights', async () => {
      const role = unique('reader')
      await setting.pool.query(`CREATE ROLE "${role}"`)
      try {
        await setting.pool.query(`GRANT SELECT ON lease_layout TO "${role}"`)
        const pool = new Pool({ connectionString: setting.directUrl, options: `-c role=${role}` })
        await failsForSetUp(postgresClient({ pool, namespace: unique('ns') }), /this role lacks a right/)
        await pool.end()
      } finally {
        await setting.pool.query(`REVOKE ALL ON lease_layout FROM "${role}"; DROP ROLE "${role}"`)
      }
    })
  })
}

describe('PostgreSQL that is away', () => {
  it('is retried, and after some seconds a warning names address and cause', async () => {
    const pool = new Pool({ host: '127.0.0.1', port: 1 }) // nobody listens there
    const events = new LeaseEvents()
    const client = postgresClient({ pool, namespace: 'away', events })
    const manager = new Manager({ client })
    const told: string[] = []
    manager.events.subscribe((event) => void (event.type === 'warning' && told.push(event.warning, event.message)))
    const hold = manager.hold('a', 'me', { duration: { seconds: 30 }, wait: true })
    hold.catch(() => {})
    await until('a warning', () => told.includes('store-away'))
    expect(told[told.indexOf('store-away') + 1]).to.include('connect ECONNREFUSED 127.0.0.1:1')
    await manager.stop()
    await client.close()
    await pool.end()
  })
})

describe('a URL that is none', () => {
  it('fails every call, and no error or event shows its password', async () => {
    const events = new LeaseEvents()
    const shown: string[] = []
    const see = (what: unknown): unknown => shown.push(inspect(what, { depth: 10, showHidden: true }))
    events.subscribe(see)
    const pool = (): postgres.Sql => postgres('postgres://me:hush@127.0.0.1:port/db', { max: 1 })
    const client = postgresClient({ pool, namespace: 'any', events })
    const manager = new Manager({ client, events })
    see(await caught(manager.claim('l', 'a', 1_000)))
    see(await caught(manager.hold('l', 'a', { duration: 1_000, wait: 100 })))
    see(await caught(migrate(pool)))
    expect(shown.join('\n')).to.include('Invalid URL').and.not.include('hush')
    await manager.stop()
    await client.close()
  })
})

describe('what is passed in the wrong place', () => {
  const url = 'postgres://me:secret@127.0.0.1:1/db'
  const pool = new Pool({ connectionString: url })
  const wrong: Readonly<Record<string, readonly [call: () => unknown, expected: string]>> = {
    'a URL to migrate': [
      () => migrate(url as never),
      'pool must be a pool: new pg.Pool({ connectionString }), or for postgres.js',
    ],
    'a Client to migrate': [
      () => migrate(new Client(url) as never),
      'and not a connection: new pg.Pool(…) (got a Client)',
    ],
    'a schema to migrate': [() => migrate(pool, 'app' as never), 'options must be an object (got "app")'],
    'a word to migrationSql': [() => migrationSql({ namespace: 'a' } as never), 'namespace is not an option'],
    'a pool for the options': [
      () => postgresClient(pool as never),
      'options must be an object such as { pool, namespace }',
    ],
    'a pool for a client': [
      () => new Manager({ client: pool as never }),
      'client must be a Client, such as postgresClient(',
    ],
    'a Client for a pool': [
      () => postgresClient({ pool: new Client(url) as never, namespace: 'a' }),
      'pool must be a pool, and not a connection: new pg.Pool(…) (got a Client)',
    ],
  }
  for (const [what, [call, expected]] of Object.entries(wrong)) {
    it(`${what}: the message says what is expected, and shows no password`, async () => {
      const error = await Promise.resolve()
        .then(call)
        .catch((thrown: unknown) => thrown)
      expect(error).to.have.property('code', 'LEASE_NOT_VALID')
      expect((error as Error).message)
        .to.include(expected)
        .and.not.include('secret')
    })
  }
})
