import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrNotHeld, ErrNotValid, ErrUnknown, Manager, memoryClient } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { enoughOf, freshDatabase, postgresTargets, redisTargets, type RedisTarget } from 'lease-servers'
import { Client, Pool } from 'pg'
import {
  ErrFenced,
  FailOpenLock,
  FencingGate,
  MemoryFencingStore,
  PostgresFencingStore,
  ReadWriteLock,
  RedisFencingStore,
  Semaphores,
  type Fence,
  type FencingStore,
} from 'lease-recipes'
import { errorOf } from './fenced-lock.fixture.ts'
import { unique } from './stores.ts'

/** Where the gate can remember. */
interface Place {
  readonly name: string
  open(): Promise<void>
  /** As if made in another process. */
  store(): FencingStore
  close(): Promise<void>
}

const memory = new MemoryFencingStore()
const inMemory: Place = { name: 'memory', open: async () => {}, store: () => memory, close: async () => {} }

function inPostgres(target: ReturnType<typeof postgresTargets>[number]): Place & { pool(): Pool } {
  let pool: Pool
  let database: Awaited<ReturnType<typeof freshDatabase>>
  return {
    name: target.name,
    pool: () => pool,
    async open() {
      database = await freshDatabase(target)
      pool = new Pool({ connectionString: database.url, max: 8 })
      pool.on('error', () => {}) // the database is dropped before the last connection is closed
      pool.on('connect', (client) => client.on('error', () => {}))
      await new PostgresFencingStore({ client: pool }).migrate()
    },
    store: () => new PostgresFencingStore({ client: pool }),
    async close() {
      await pool.end()
      await database.drop()
    },
  }
}

function inRedis(target: RedisTarget): Place {
  let redis: Redis | Cluster
  const prefix = `${unique('gate')}:`
  return {
    name: target.name,
    open: async () => void (redis = target.kind === 'server' ? new Redis(target.url) : new Cluster([...target.nodes])),
    store: () => new RedisFencingStore({ client: redis, prefix }),
    close: async () => redis.disconnect(),
  }
}

const postgres = enoughOf(postgresTargets()).map(inPostgres)
const redis = redisTargets().map(inRedis)

for (const place of [inMemory, ...postgres, ...redis]) {
  describe(`the fencing gate in ${place.name}`, () => {
    let gate: FencingGate
    let name: string

    before(() => place.open())
    after(() => place.close())
    beforeEach(() => {
      gate = new FencingGate({ store: place.store() })
      name = unique('file')
    })

    const refused = async (fence: Fence, by = gate): Promise<ErrFenced> => {
      const error = (await errorOf(by.admit(name, fence))) as ErrFenced
      expect(error).to.be.instanceOf(ErrFenced)
      return error
    }

    it('a holder is let in, again and again, until a later term has been', async () => {
      const [old, young] = [
        { fencingToken: 7n, holder: 'a' },
        { fencingToken: 8n, holder: 'b' },
      ]
      await gate.admit(name, old)
      await gate.admit(name, old)
      await gate.admit(name, young)
      await gate.admit(name, young)
      for (let time = 0; time < 2; time++) await refused(old)
      await gate.admit(name, young)
    })

    it('the refusal says both tokens, and that the holder is not one any more', async () => {
      await gate.admit(name, { fencingToken: 34n, holder: 'young' })
      const error = await refused({ fencingToken: 33n, holder: 'old' })
      expect(error.message).to.equal(
        `"${name}" does not admit fencing token 33 of "old": fencing token 34 of "young" was admitted`,
      )
      expect(error.fencingToken).to.equal(33n)
      expect(error.admitted).to.deep.equal({ fencingToken: 34n, holder: 'young' })
      expect(error).to.be.instanceOf(ErrNotHeld)
      expect(error.code).to.equal('LEASE_NOT_HELD')
      expect(error.reason).to.equal('lower token')
    })

    it('the same token of another term is refused, and does not change whose it is', async () => {
      await gate.admit(name, { fencingToken: 5n, holder: 'a' })
      expect((await refused({ fencingToken: 5n, holder: 'b' })).reason).to.equal('token of another term')
      await gate.admit(name, { fencingToken: 5n, holder: 'a' })
    })

    it('names have nothing to do with each other', async () => {
      await gate.admit(name, { fencingToken: 9n, holder: 'a' })
      await gate.admit(`${name} 2`, { fencingToken: 1n, holder: 'b' })
      await refused({ fencingToken: 8n, holder: 'a' })
    })

    it('another process refuses what this one has overtaken', async () => {
      await gate.admit(name, { fencingToken: 2n, holder: 'a' })
      await refused({ fencingToken: 1n, holder: 'a' }, new FencingGate({ store: place.store() }))
    })

    it('tokens are compared as whole numbers, beyond what a double can tell apart', async () => {
      const tokens = [
        0n,
        1n,
        9n,
        10n,
        99n,
        100n,
        2n ** 53n,
        2n ** 53n + 1n,
        2n ** 53n + 2n,
        2n ** 63n - 1n,
        2n ** 63n,
        10n ** 30n,
      ]
      for (const [index, fencingToken] of tokens.entries()) {
        await gate.admit(name, { fencingToken, holder: 'a' })
        for (const earlier of tokens.slice(0, index)) {
          const { admitted } = await refused({ fencingToken: earlier, holder: 'a' })
          expect(admitted.fencingToken).to.equal(fencingToken)
        }
      }
    })

    it('any name and holder within the rules are kept apart as they are', async () => {
      for (const odd of [
        'a b',
        "it's",
        '"; DROP TABLE fencing_gate; --',
        'ä',
        'a\u0308',
        '🔒',
        ' ',
        'x'.repeat(255),
        '\n',
        '{a}',
      ]) {
        await gate.admit(odd, { fencingToken: 1n, holder: odd })
        const error = (await errorOf(gate.admit(odd, { fencingToken: 1n, holder: 'me' }))) as ErrFenced
        expect(error.admitted).to.deep.equal({ fencingToken: 1n, holder: odd })
      }
    })

    it('of many at once the highest wins, and after it was let in nobody lower is', async () => {
      const admitted: bigint[] = []
      const gates = Array.from({ length: 4 }, () => new FencingGate({ store: place.store() }))
      const tokens = Array.from({ length: 200 }, (_, index) => BigInt((index * 73) % 200))
      await Promise.all(
        tokens.map(async (fencingToken, index) => {
          try {
            await (gates[index % 4] as FencingGate).admit(name, { fencingToken, holder: `h${fencingToken}` })
            admitted.push(fencingToken)
          } catch (error) {
            expect(error).to.be.instanceOf(ErrFenced)
            const { admitted: highest } = error as ErrFenced
            expect(highest.fencingToken > fencingToken).to.equal(true)
            expect(highest.holder).to.equal(`h${highest.fencingToken}`)
          }
        }),
      )
      expect(admitted).to.include(199n)
      expect((await refused({ fencingToken: 198n, holder: 'h198' })).admitted.fencingToken).to.equal(199n)
    })

    it('of two who come at once with one token exactly one is let in', async () => {
      for (let round = 0; round < 10; round++) {
        name = unique('file')
        const both = await Promise.allSettled(
          ['a', 'b'].map((holder) => gate.admit(name, { fencingToken: 4n, holder })),
        )
        expect(both.map(({ status }) => status).toSorted()).to.deep.equal(['fulfilled', 'rejected'])
      }
    })

    it('a lock is a fence as it is, and the next one overtakes it', async () => {
      const clock = new TestClock()
      const manager = new Manager({ client: memoryClient({ clock }), clock })
      const locks = new FailOpenLock({ manager, clock, leaseDuration: 1000 })
      const lock = await locks.acquireLock('db')
      await gate.admit(name, lock)
      await clock.advance(2000)
      const next = await locks.acquireLock('db')
      await gate.admit(name, lock) // nobody has overtaken it yet
      await gate.admit(name, next)
      await refused(lock)
      await manager.stop()
    })
  })
}

for (const place of postgres) {
  describe(`the fencing gate within a transaction of ${place.name}`, () => {
    before(() => place.open())
    after(() => place.close())

    it('anyone who comes later waits until the write has been committed', async () => {
      const name = unique('row')
      const session = await place.pool().connect()
      try {
        await session.query('BEGIN')
        await new FencingGate({ store: new PostgresFencingStore({ client: session }) }).admit(name, {
          fencingToken: 1n,
          holder: 'a',
        })
        const later = track(new FencingGate({ store: place.store() }).admit(name, { fencingToken: 2n, holder: 'b' }))
        await new Promise((resolve) => setTimeout(resolve, 100))
        expect(later.state).to.equal('pending')
        await session.query('COMMIT')
        await later.promise
      } finally {
        session.release()
      }
    })

    it('a transaction that is rolled back has not been let in', async () => {
      const name = unique('row')
      const session = await place.pool().connect()
      try {
        await session.query('BEGIN')
        const store = new PostgresFencingStore({ client: session })
        await new FencingGate({ store }).admit(name, { fencingToken: 9n, holder: 'a' })
        await session.query('ROLLBACK')
        await new FencingGate({ store: place.store() }).admit(name, { fencingToken: 8n, holder: 'b' })
      } finally {
        session.release()
      }
    })

    for (const [how, tells] of [
      ['BEGIN', true],
      ['BEGIN', false],
      ['BEGIN; SELECT 1 / 0', true],
      ['BEGIN; SELECT 1 / 0', false],
    ] as const) {
      const driver = tells ? '' : ', where the driver does not tell'
      it(`what a pool remembers is not undone with a transaction that somebody has left open: ${how}${driver}`, async () => {
        const name = unique('row')
        const pool = new Pool({ ...place.pool().options, max: 1 })
        pool.on('connect', (client) => {
          client.on('error', () => {})
          if (!tells) Object.assign(client, { getTransactionStatus: () => null })
        })
        const left = await pool.connect()
        await left.query(how).catch(() => {})
        left.release()
        const store = new PostgresFencingStore({ client: pool })
        await new FencingGate({ store }).admit(name, { fencingToken: 9n, holder: 'a' })
        await pool.query('ROLLBACK')
        await pool.end()
        const late = new FencingGate({ store: place.store() }).admit(name, { fencingToken: 8n, holder: 'b' })
        expect(await errorOf(late)).to.be.instanceOf(ErrFenced)
      })
    }

    it('the table can be made by many at once, under a name of one’s own', async () => {
      await place.pool().query('CREATE SCHEMA IF NOT EXISTS mine')
      const make = (): Promise<void> =>
        new PostgresFencingStore({ client: place.pool(), table: 'mine.gate_2' }).migrate()
      await Promise.all(Array.from({ length: 8 }, make))
      const store = new PostgresFencingStore({ client: place.pool(), table: 'mine.gate_2' })
      await new FencingGate({ store }).admit('a', { fencingToken: 1n, holder: 'a' })
      const { rows } = await place.pool().query('SELECT name FROM mine.gate_2')
      expect(rows).to.deep.equal([{ name: 'a' }])
    })

    it('without its table nothing is let in', async () => {
      const client = new Client(place.pool().options)
      client.on('error', () => {})
      await client.connect()
      const gate = new FencingGate({ store: new PostgresFencingStore({ client, table: 'nowhere' }) })
      const error = await errorOf(gate.admit('a', { fencingToken: 1n, holder: 'a' }))
      expect(error).to.be.instanceOf(ErrUnknown)
      expect((error.cause as { code: string }).code).to.equal('42P01')
      await client.end()
    })
  })
}

for (const target of redisTargets('server')) {
  describe(`the fencing gate over a connection to ${target.name} that others use`, () => {
    it('admits nobody by the answer to another call: after a CLIENT REPLY the outcome is unknown', async () => {
      const redis = new Redis(target.url)
      try {
        const gate = new FencingGate({ store: new RedisFencingStore({ client: redis, prefix: `${unique('gate')}:` }) })
        const [older, newer] = [
          { fencingToken: 3n, holder: 'a' },
          { fencingToken: 5n, holder: 'b' },
        ]
        await gate.admit('file', newer)
        await gate.admit('page', older)
        void redis.call('CLIENT', 'REPLY', 'SKIP').catch(() => {})
        const late = gate.admit('file', older)
        for (let n = 0; n < 4; n++) void gate.admit('page', older).catch(() => {})
        expect(await errorOf(late)).to.be.instanceOf(ErrUnknown)
      } finally {
        redis.disconnect()
      }
    })
  })
}

describe('the fencing gate', () => {
  const gate = new FencingGate({ store: new MemoryFencingStore() })

  it('what is wrong with the arguments is reported at once, and nothing is coerced', async () => {
    const problemsOf = async (...args: unknown[]): Promise<string[]> => {
      const error = (await errorOf(gate.admit(...(args as Parameters<typeof gate.admit>)))) as ErrNotValid
      expect(error).to.be.instanceOf(ErrNotValid)
      return error.problems.map(({ argument }) => argument)
    }
    expect(await problemsOf('', { fencingToken: 5, holder: '' }, { signal: 5, retries: 1 })).to.deep.equal([
      'retries',
      'name',
      'fencingToken',
      'holder',
      'signal',
    ])
    for (const fencingToken of [-1n, 5, '5', undefined, null, 2 ** 60]) {
      expect(await problemsOf('a', { fencingToken, holder: 'a' })).to.deep.equal(['fencingToken'])
    }
    for (const text of [5, '', 'a\0b', '\ud800', 'x'.repeat(256)]) {
      expect(await problemsOf(text, { fencingToken: 1n, holder: text })).to.deep.equal(['name', 'holder'])
    }
    for (const fence of [undefined, null, 5]) {
      expect(await problemsOf('a', fence)).to.deep.equal(['fencingToken', 'holder'])
    }
    expect(await problemsOf('a', { fencingToken: 1n, holder: 'a' }, null)).to.deep.equal(['options'])
  })

  it('options are checked when a gate or a store is made', () => {
    expect(() => new FencingGate({} as never)).to.throw(ErrNotValid, 'store must be a FencingStore')
    expect(() => new FencingGate(undefined as never)).to.throw(ErrNotValid)
    const client = { query: async () => ({ rows: [] }), eval: async () => [] }
    for (const table of ['', 'Gate', 'a b', 'a;b', 'a.b.c', '1a', 'x'.repeat(64), 5]) {
      expect(() => new PostgresFencingStore({ client, table: table as string }), String(table)).to.throw(ErrNotValid)
    }
    expect(() => new PostgresFencingStore({ client: {}, tabel: 'x' } as never)).to.throw(
      ErrNotValid,
      /client.*; tabel|tabel.*; client/,
    )
    for (const prefix of ['', 5, '\0']) {
      expect(() => new RedisFencingStore({ client, prefix: prefix as string })).to.throw(ErrNotValid)
    }
    expect(() => new RedisFencingStore({ client: {} } as never)).to.throw(ErrNotValid, 'client')
  })

  it('a permit that was lost is refused as not held, no matter who has the next one', async () => {
    const manager = new Manager({ client: memoryClient() })
    const gate = new FencingGate({ store: new MemoryFencingStore() })
    const semaphores = new Semaphores({ manager })
    await semaphores.create('one', 1)
    const lost = await semaphores.post('one', 'a', 60_000)
    await gate.admit('file', lost)
    await manager.revoke(lost.lease)
    const refusals = [await errorOf(gate.admit('file', lost))]
    await gate.admit('file', await semaphores.post('one', 'b', 60_000))
    refusals.push(await errorOf(gate.admit('file', lost)))
    await semaphores.close('one', 'b')
    await semaphores.post('one', 'a', 60_000)
    refusals.push(await errorOf(gate.admit('file', lost)))
    for (const refusal of refusals) expect(refusal).to.be.instanceOf(ErrNotHeld)
    await semaphores.stop()
    await manager.stop()
  })

  it('writers and holders of all there is are let in, and those who share are not', async () => {
    const manager = new Manager({ client: memoryClient() })
    const gate = new FencingGate({ store: new MemoryFencingStore() })
    const lock = new ReadWriteLock({ manager, name: 'file' })
    const semaphores = new Semaphores({ manager })
    await semaphores.create('one', 1)
    const first = await semaphores.post('one', 'a', 60_000)
    await gate.admit('of one', first)
    const writer = await lock.wlock('w')
    await gate.admit('file', writer)
    await writer.release()
    const shares = [
      await lock.rlock('r'),
      await semaphores.post('two', 'a', 60_000, { n: 2 }),
      await manager.hold('three', 'a', { duration: 60_000, share: { capacity: 3, weight: 2 } }),
    ]
    for (const share of shares) {
      const error = await errorOf(gate.admit('file', share))
      expect(error).to.be.instanceOf(ErrNotValid)
      expect(error.message).to.contain('must exclude all others')
    }
    await gate.admit('file', await manager.hold('lease', 'a', { duration: 60_000 }))
    await semaphores.stop()
    await lock.stop()
    await manager.stop()
  })

  it('a store that fails, or answers nonsense, lets nobody in and refuses nobody', async () => {
    const fence = { fencingToken: 1n, holder: 'a' }
    const away = new Error('away')
    const stores: FencingStore[] = [
      { admit: () => Promise.reject(away) },
      {
        admit: () => {
          throw away
        },
      },
      ...[
        [],
        [{}],
        [{ fencing_token: 1, holder: 'a' }],
        [{ fencing_token: '1' }],
        [{ fencing_token: 'x', holder: 'a' }],
      ].map((rows) => new PostgresFencingStore({ client: { query: async () => ({ rows }) } })),
      ...[null, [], ['1'], [1, 'a'], 'OK'].map(
        (reply) => new RedisFencingStore({ client: { eval: async () => reply } }),
      ),
      ...[
        undefined,
        null,
        {},
        { fencingToken: 1, holder: 'a' },
        { fencingToken: '2', holder: 'b' },
        { fencingToken: 0n, holder: 'a' },
        { fencingToken: 2n },
      ].map((answer): FencingStore => ({ admit: async () => answer as never })),
    ]
    for (const store of stores) {
      expect(await errorOf(new FencingGate({ store }).admit('file', fence))).to.be.instanceOf(ErrUnknown)
    }
  })

  it('a signal that aborts ends the call with its reason', async () => {
    const never = new FencingGate({ store: { admit: () => new Promise(() => {}) } })
    const abort = new AbortController()
    const fence = { fencingToken: 1n, holder: 'a' }
    const waiting = track(never.admit('file', fence, { signal: abort.signal }))
    await new Promise((resolve) => setImmediate(resolve)) // the store has been asked
    abort.abort(new Error('enough'))
    expect((await errorOf(waiting.promise)).message).to.equal('enough')
    expect((await errorOf(gate.admit('file', fence, { signal: abort.signal }))).message).to.equal('enough')
  })

  it('a signal that aborts within any microtask of a failure ends the call with its reason or an unknown outcome', async () => {
    for (let turns = 0; turns < 8; turns++) {
      const [end, reason] = [new AbortController(), new Error('enough')]
      const abortLater = async (): Promise<void> => {
        for (let turn = 0; turn < turns; turn++) await Promise.resolve()
        end.abort(reason)
      }
      const store = {
        admit: () => {
          void abortLater()
          return Promise.reject(new Error('away'))
        },
      }
      const error = await errorOf(
        new FencingGate({ store }).admit('file', { fencingToken: 1n, holder: 'a' }, { signal: end.signal }),
      )
      expect(error === reason || error instanceof ErrUnknown, `after ${turns} turns: ${error}`).to.equal(true)
    }
  })
})
