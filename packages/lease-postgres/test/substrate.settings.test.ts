import { expect } from 'chai'
import { type LeaseChange, LeaseEvents, Manager } from 'lease-core'
import type { Op, Substrate } from 'lease-core/adapter'
import { collect, migrate, postgresClient, PostgresSubstrate, SqlGuard } from 'lease-postgres'
import {
  enoughOf,
  isMatrix,
  pgbouncerTarget,
  type Postgres,
  postgresTargets,
  startPgbouncer,
  startPostgres,
  until,
} from 'lease-servers'
import { Client, Pool, type PoolConfig } from 'pg'
import {
  caught,
  claim,
  expire,
  extend,
  grant,
  newCall,
  pin,
  readOne,
  release,
  settle,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, releaseHeld, type Setting } from './setting.ts'
import { inspectionWarnings } from '#src/warnings.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`settings of the user, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    const settings = [
      'array_nulls=off',
      'DateStyle=SQL,DMY',
      'IntervalStyle=iso_8601',
      'extra_float_digits=-15',
      'TimeZone=Pacific/Kiritimati',
      'bytea_output=escape',
      'standard_conforming_strings=off',
      'quote_all_identifiers=on',
      'transform_null_equals=on',
      'default_transaction_isolation=serializable',
      'lc_numeric=C',
    ]
    const parsers: Record<string, unknown> = {
      'rows as text': { getTypeParser: () => (text: string) => text },
      'numbers as numbers, and words as other words': {
        getTypeParser: (oid: number) => (text: string) => (oid === 25 ? text : { oid, text }),
      },
    }
    const ways: Record<string, PoolConfig> = {
      'all at once': { options: settings.map((one) => `-c ${one}`).join(' ') },
    }
    // One by one only to tell which of them it is.
    for (const one of isMatrix() ? settings : []) ways[one] = { options: `-c ${one}` }
    for (const [name, types] of Object.entries(parsers)) ways[name] = { types } as PoolConfig

    for (const [name, config] of Object.entries(ways)) {
      it(`change no answer: ${name}`, async () => {
        const pool = setting.newPool(config)
        await migrate(pool)
        const namespace = unique('ns')
        const [mine, plain] = [
          setting.substrate({ pool, namespace, listen: false }),
          setting.substrate({ namespace, listen: false }),
        ]
        expect(await mine.time(newCall())).to.be.within(
          await plain.time(newCall()).then((ms) => ms - 60_000),
          await plain.time(newCall()).then((ms) => ms + 60_000),
        )
        // In one batch: with a value, with the word that NULL is, with none.
        const call = newCall()
        await mine.apply(
          [
            claim('with', 'a', 60_000, { value: '', announce: true }),
            claim('word', 'null', 60_000, { value: 'null' }),
            claim('none', 'a', 60_000),
          ],
          call,
        )
        const [read, asRead] = [await mine.read(undefined, newCall()), await plain.read(undefined, newCall())]
        const valuesOf = (holdings: typeof read) =>
          Array.from(holdings, ([lease, { holder, value }]) => [lease, holder, value]).toSorted(([one], [other]) =>
            (one ?? '') < (other ?? '') ? -1 : 1,
          )
        const expected = [
          ['none', 'a', undefined],
          ['with', 'a', ''],
          ['word', 'null', 'null'],
        ]
        expect(valuesOf(asRead)).to.deep.equal(expected)
        expect(valuesOf(read)).to.deep.equal(expected)
        const held = await grant(
          mine,
          extend('with', 'a', 100_000, { fencingToken: read.get('with')?.fencingToken ?? 0n }),
        )
        expect(held.remainingMs).to.be.within(60_000, 100_000)
        expect((await readOne(mine, 'with'))?.ageMs).to.be.within(0, 60_000)
        // With and without an adoption, with and without a nonce.
        const tokenOf = (lease: string): bigint => read.get(lease)?.fencingToken ?? 0n
        const extended = await mine.apply(
          [
            extend('with', 'a', 60_000, { fencingToken: tokenOf('with'), value: 'v' }),
            extend('none', 'a', 60_000, {
              fencingToken: tokenOf('none'),
              adoption: { from: read.get('none')?.nonce, nonce: 'adopted' },
            }),
          ],
          newCall(),
        )
        expect(extended.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'granted'])
        expect((await plain.read(['none', 'with'], newCall())).get('none')).to.include({
          nonce: 'adopted',
          value: undefined,
        })
        await settle(mine, pin('with', 'e', 'g'))
        expect(await mine.pinned(newCall())).to.deep.equal(new Map([['with', new Map([['e', 'g']])]]))
        await settle(mine, unpin('with', 'e', 'g'))
        const released = await mine.apply(
          [
            release('with', 'a', { fencingToken: tokenOf('with') }),
            release('none', 'a', { fencingToken: tokenOf('none'), nonce: 'adopted' }),
            release('word', 'null', { fencingToken: tokenOf('word'), nonce: 'another' }),
          ],
          newCall(),
        )
        expect(released.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'granted', 'refused'])
        await settle(mine, expire('word'))
        expect(await mine.inspect(newCall())).to.deep.equal(await plain.inspect(newCall()))
        await setting.age('with', 'none')
        expect(await collect(pool, { namespace, retention: 60_000 })).to.equal(2)
      })
    }
  })

  describe(`batches that meet, on ${target.name}`, () => {
    it('never deadlock, whatever their order: those who get into queues, watch, leave, are served or passed over', async () => {
      await using setting = await openSetting(target)
      // Each of those who wait takes a while, so that the batches keep meeting.
      await setting.pool.query(`CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_catalog.pg_sleep(0.002); RETURN coalesce(NEW, OLD); END';
        CREATE TRIGGER slowly BEFORE INSERT OR UPDATE OR DELETE ON lease_waiter FOR EACH ROW EXECUTE FUNCTION slowly()`)
      const application = unique('batches')
      const pools: Pool[] = []
      let served = 0
      const isNobodyServed = (): boolean => served === 0 // which is chance
      const namespace = unique('ns')
      const leases = Array.from({ length: 12 }, (_, index) => `l${index}`)
      const shuffled = (): string[] => leases.toSorted(() => Math.random() - 0.5)
      /** In batches; those that were at a row where somebody else was just then, once more. */
      const releaseAll = async (substrate: Substrate, ops: readonly Op[]): Promise<void> => {
        for (let left = ops; left.length > 0;) {
          const verdicts = await substrate.apply(left, newCall())
          left = left.filter((_, index) => verdicts[index]?.outcome === 'contended')
        }
      }
      const worker = async (holder: string): Promise<void> => {
        const pool = new Pool({
          connectionString: setting.url,
          application_name: application,
          options: '-c deadlock_timeout=5ms',
        })
        pools.push(pool)
        const substrate = setting.substrate({ namespace, pool, listen: false })
        const places = new Map<string, number>()
        for (let round = 0; round < 12 || isNobodyServed(); round++) {
          const names = shuffled()
          const verdicts = await substrate.apply(
            names.map((lease) =>
              claim(lease, holder, 60_000, { place: Math.random() < 0.5 ? 0 : (places.get(lease) ?? 0) }),
            ),
            newCall(),
          )
          const held: { lease: string; fencingToken: bigint }[] = []
          verdicts.forEach(({ outcome, ticket, holding, cause }, index) => {
            if (outcome === 'unknown') throw cause
            const lease = names[index] as string
            if (ticket !== undefined) places.set(lease, ticket.place)
            if (outcome !== 'granted' || holding === undefined) return
            if (places.delete(lease)) served++
            held.push({ lease, fencingToken: holding.fencingToken })
          })
          const others = shuffled()
          const [watched, passed, left] = [others.slice(0, 3), others.slice(3, 5), others.slice(5, 7)]
          await Promise.all([
            releaseAll(
              substrate,
              held.map(({ lease, fencingToken }) => release(lease, holder, { fencingToken })),
            ),
            substrate.read(names, newCall(), [...watched, unique('without-a-row')]),
            substrate.apply(
              [
                ...passed.map((lease) => ({ kind: 'passOver' as const, lease, place: places.get(lease) ?? 0 })),
                ...left.map((lease) => ({ kind: 'leave' as const, lease, place: places.get(lease) })),
              ],
              newCall(),
            ),
          ])
        }
      }
      await Promise.all(Array.from({ length: 6 }, (_, index) => worker(`w${index}`)))
      expect(served).to.be.greaterThan(0)
      await Promise.all(pools.map((pool) => pool.end()))
      // A connection sends its statistics just before it is no longer listed.
      await until('the connections are gone', async () => {
        const listed = 'SELECT FROM pg_stat_activity WHERE application_name = $1'
        return (await setting.pool.query(listed, [application])).rowCount === 0
      })
      const { rows } = await setting.pool.query(
        'SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()',
      )
      expect(rows).to.deep.equal([{ deadlocks: 0 }])
    })
  })

  describe(`collect, on ${target.name}`, () => {
    let setting: Setting
    beforeEach(async () => {
      setting = await openSetting(target)
    })
    afterEach(() => setting[Symbol.asyncDispose]())

    const makeOld = async (count: number): Promise<void> => {
      await setting.pool.query('ALTER TABLE lease SET (autovacuum_enabled = off)') // it would keep the table from us
      await setting.pool.query(
        `INSERT INTO lease (ns, name, token, expiry) SELECT 'n', 'old' || g, g, now() - interval '1 hour' FROM generate_series(1, $1) g`,
        [count],
      )
    }
    const options = { namespace: 'n', retention: 60_000 }

    it('takes no lock where nothing is old, however many leases there are', async () => {
      const substrate = setting.substrate({ namespace: 'n', listen: false })
      await grant(substrate, claim('l', 'a', 60_000))
      const busy = await setting.pool.connect()
      try {
        await busy.query('BEGIN')
        await busy.query('LOCK TABLE lease IN SHARE ROW EXCLUSIVE MODE') // as a claim under way, but for ever
        let isDone = false
        const collecting = collect(setting.pool, options).finally(() => (isDone = true))
        await until('it has looked at all of them, waiting for nobody', async () => {
          expect(await setting.isWaitedFor(busy)).to.equal(false)
          return isDone
        })
        expect(await collecting).to.equal(0)
      } finally {
        busy.release(true)
      }
    })

    it('searches in steps and removes all that is old, also beyond the first step, and no more', async () => {
      await makeOld(5_000)
      const substrate = setting.substrate({ namespace: 'n', listen: false })
      await grant(substrate, claim('a', 'a', 60_000))
      await grant(substrate, claim('z', 'a', 60_000))
      await grant(substrate, claim('fresh', 'a', 60_000))
      await releaseHeld(substrate, 'fresh')
      expect(await collect(setting.pool, options)).to.equal(5_000)
      const { rows } = await setting.pool.query('SELECT name FROM lease ORDER BY name')
      expect(rows.map(({ name }) => name)).to.deep.equal(['a', 'fresh', 'z'])
      expect((await setting.pool.query('SELECT token FROM lease_floor')).rows).to.deep.equal([{ token: '5000' }])
    })

    it('lets claims pass while it waits for its lock, and stops early', async () => {
      await makeOld(3)
      const busy = await setting.pool.connect()
      try {
        await busy.query('BEGIN')
        await busy.query(`UPDATE lease SET nonce = 'other' WHERE name = 'old1'`)
        const collecting = collect(setting.pool, options)
        await setting.waitedFor(busy)
        const substrate = setting.substrate({ namespace: 'n', listen: false })
        await grant(substrate, claim('l', 'a', 60_000))
        expect(await collecting).to.equal(0)
        await busy.query('ROLLBACK')
        expect(await collect(setting.pool, options)).to.equal(3)
      } finally {
        busy.release(true)
      }
    })
  })

  describe(`hints of others, on ${target.name}`, () => {
    it('are not heard: of another schema, whether it was named or found by the path', async () => {
      await using setting = await openSetting(target)
      await setting.pool.query('CREATE SCHEMA one; CREATE SCHEMA other')
      const onPath = setting.newPool({ options: '-c search_path=one' })
      await migrate(onPath)
      await migrate(setting.pool, { schema: 'other' })
      const substrates = {
        named: setting.substrate({ namespace: 'n', schema: 'one' }),
        found: setting.substrate({ namespace: 'n', pool: onPath }),
        other: setting.substrate({ namespace: 'n', schema: 'other' }),
        default: setting.substrate({ namespace: 'n' }),
      }
      const heard = new Map<string, string[]>()
      for (const [name, substrate] of Object.entries(substrates)) {
        const leases: string[] = []
        let isListening = false
        substrate.watch?.((change) => {
          if (change.kind === 'resync') isListening = true
          else leases.push(change.lease)
        })
        heard.set(name, leases)
        await until(`${name} listens`, () => isListening)
      }
      for (const [name, substrate] of Object.entries(substrates)) {
        await grant(substrate, claim(`of-${name}`, 'a', 60_000))
        await releaseHeld(substrate, `of-${name}`)
      }
      await until('the last hint has come', () => heard.get('default')?.includes('of-default') === true)
      await until('the hints of the schema have come', () =>
        ['named', 'found'].every((name) => heard.get(name)?.length === 2),
      )
      expect(Object.fromEntries(heard)).to.deep.equal({
        named: ['of-named', 'of-found'],
        found: ['of-named', 'of-found'],
        other: ['of-other'],
        default: ['of-default'],
      })
    })
  })
}

describe('a full queue of notifications', () => {
  let server: Postgres
  before(async () => {
    server = await startPostgres({ version: 18, settings: { max_notify_queue_pages: '64' } })
  })
  after(() => server.stop())

  /** A connection that listens and does not read: the queue is full until it ends. */
  async function fillQueue(setting: Setting): Promise<Client> {
    const sleeper = new Client({ connectionString: setting.url })
    sleeper.on('error', () => {})
    await sleeper.connect()
    for (const statement of ['LISTEN anything', 'BEGIN', 'SELECT 1']) await sleeper.query(statement)
    await until('the queue is full', async () => {
      const error = await caught(
        setting.pool.query(`SELECT pg_notify('anything', repeat('x', 7900) || g) FROM generate_series(1, 10) g`),
      ).catch(() => undefined)
      return (error as { code?: string } | undefined)?.code === '54000'
    })
    return sleeper
  }

  it('undoes nothing: not a claim, not a release, not a claim of one who waits', async () => {
    await using setting = await openSetting(server)
    const warned: string[] = []
    const options = { pool: setting.pool, namespace: 'n', listen: false } as const
    const substrate = new PostgresSubstrate(options, ({ warning }) => void warned.push(warning))
    await substrate.read(['held', 'next', 'x', 'y'], newCall(), ['held', 'next', 'x', 'y'])
    const announce = true
    const { fencingToken } = await grant(substrate, claim('held', 'a', 60_000))
    const sleeper = await fillQueue(setting)
    try {
      expect(await settle(substrate, release('held', 'a', { fencingToken }))).to.include({ outcome: 'granted' })
      expect(await readOne(substrate, 'held')).to.equal(undefined)
      const next = await grant(substrate, claim('next', 'a', 60_000, { announce, place: 1 }))
      await grant(substrate, extend('next', 'a', 60_000, { fencingToken: next.fencingToken, value: 'v', announce }))
      expect(warned).to.deep.equal(['notify-queue-full'])
    } finally {
      await sleeper.end()
    }
  })

  it('has room again once all have read it: the first operation after that notifies', async () => {
    await using setting = await openSetting(server)
    const substrate = setting.substrate({ namespace: 'n', listen: false })
    const watching = setting.substrate({ namespace: 'n' })
    const call = newCall({ client: 'who-watches' })
    const heard: LeaseChange[] = []
    watching.watch?.((change) => void heard.push(change), call.client)
    await until('it listens', () => heard.length > 0)
    await watching.read(['l'], call, ['l'])
    const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
    const sleeper = await fillQueue(setting)
    await grant(substrate, claim('meanwhile', 'a', 60_000))
    await sleeper.end()
    expect(await settle(substrate, release('l', 'a', { fencingToken }))).to.include({ outcome: 'granted' })
    await until('who watches is notified', () =>
      heard.some((change) => change.kind === 'vacated' && change.lease === 'l'),
    )
  })
})

describe('the inspection', () => {
  const behind = pgbouncerTarget()

  /** The statements that the inspection sends over connections of this pool, and the words of its warnings. */
  const inspected = async (setting: Setting): Promise<{ statements: string[]; words: string[] }> => {
    const pool = setting.newPool()
    const statements: string[] = []
    pool.on('connect', (client) => {
      const query = client.query.bind(client) as (...args: unknown[]) => unknown
      Object.assign(client, {
        query(...args: unknown[]) {
          statements.push(String(args[0]))
          return query(...args)
        },
      })
    })
    const substrate = setting.substrate({ pool, listen: false })
    const words = (await substrate.inspect(newCall())).map(({ warning }) => warning)
    return { statements: statements.map((text) => text.replace(/^SELECT .*/s, 'SELECT')), words }
  }

  for (const [poolMode, words] of [
    ['session', []],
    ['transaction', []],
    ['statement', ['statement-pooling']],
  ] as const) {
    it(`${words.length === 0 ? 'warns of nothing' : 'warns'} where pgbouncer pools by ${poolMode}`, async () => {
      await using pgbouncer = await startPgbouncer(behind.directUrl, { poolMode })
      await using setting = await openSetting(pgbouncer)
      const direct = setting.substrate({ pool: setting.newPool({ connectionString: setting.directUrl }) })
      const ofServer = (await direct.inspect(newCall())).map(({ warning }) => warning)
      const found = await inspected(setting)
      expect(found.words).to.deep.equal([...ofServer, ...words])
      // Sent one by one: pgbouncer decides by the state after each.
      expect(found.statements.slice(0, 2)).to.deep.equal(['SELECT', 'BEGIN'])
    })
  }

  it('sends nothing more where no pooler stands in between', async () => {
    await using setting = await openSetting({ url: behind.directUrl })
    expect((await inspected(setting)).statements).to.deep.equal(['SELECT'])
  })

  it('reports statement pooling once, and leases work there', async () => {
    await using pgbouncer = await startPgbouncer(behind.directUrl, { poolMode: 'statement' })
    await using setting = await openSetting(pgbouncer)
    const pool = setting.newPool({ max: 1 })
    await setting.pool.query('CREATE TABLE account (balance int); INSERT INTO account VALUES (10)')
    const events = new LeaseEvents()
    const words: string[] = []
    events.subscribe((event) => {
      if (event.type === 'warning') words.push(event.warning)
    })
    const client = postgresClient({ pool, namespace: unique('ns'), listen: false, events })
    await using _ = { [Symbol.asyncDispose]: () => client.close() }
    await using manager = new Manager({ client })
    const token = await manager.claim('l', 'a', 600_000)
    await until('it was reported', async () => words.includes('statement-pooling'))

    const guard = new SqlGuard()
    await token.check(guard)
    const update = `UPDATE account SET balance = balance - 1 WHERE ${guard.text}`
    expect(await pool.query(update, guard.values)).to.have.property('rowCount', 1)
    await manager.revoke('l')
    await manager.claim('l', 'b', 600_000)
    expect(await pool.query(update, guard.values)).to.have.property('rowCount', 0)

    const connection = await pool.connect()
    connection.on('error', () => {}) // pgbouncer closes it
    try {
      const held = manager.token('l', 'b')
      expect(await caught(held.check(connection))).to.have.property('code', 'LEASE_TRAPDOOR')
      expect(await caught(connection.query('BEGIN'))).to.have.property('code', '08P01')
    } finally {
      connection.release(true)
    }
    expect(words.filter((word) => word === 'statement-pooling')).to.have.length(1)
  })

  it('names the servers that look like PostgreSQL and are none, where they say so', () => {
    const server = (version: string): string[] =>
      inspectionWarnings({
        fsync: 'on',
        synchronous_commit: 'on',
        standbys: '',
        read_only: 'off',
        standby: 'false',
        encoding: 'UTF8',
        persistence: 'p',
        backend: '1',
        registers: 'true',
        notifies: 'true',
        version,
      }).map(({ message }) => message)
    expect(server('PostgreSQL 18.0 on x86_64-pc-linux-gnu, compiled by gcc')).to.deep.equal([])
    expect(server('CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024/05/15)').join()).to.match(
      /CockroachDB.*not been tested/,
    )
    expect(server('PostgreSQL 15.2-YB-2.25.0.0-b0 on x86_64-pc-linux-gnu').join()).to.match(
      /YugabyteDB.*not been tested/,
    )
  })
})
