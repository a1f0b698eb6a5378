/** Connections of the pool in the state in which others have left them. */
import { createServer, type AddressInfo } from 'node:net'
import { expect } from 'chai'
import { refused, unknown, type Verdict } from 'lease-core/adapter'
import { enoughOf, isMatrix, postgresTargets, startProxy } from 'lease-servers'
import { PostgresSubstrate, type PostgresPool, type PostgresPoolClient } from 'lease-postgres'
import { Pool, type PoolClient } from 'pg'
import { claim, eventually, extend, newCall, noneUnheard, readOne, sleep, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** How somebody leaves a connection. */
const LEFT: Readonly<Record<string, (client: PoolClient) => unknown>> = {
  'in a transaction': async (client) => {
    await client.query('BEGIN')
    await client.query('SELECT 1')
  },
  'in a transaction with a snapshot of before': async (client) => {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    await client.query('SELECT count(*) FROM lease')
  },
  'in a transaction that has failed': async (client) => {
    await client.query('BEGIN')
    await client.query('SELECT 1/0').catch(() => {})
  },
  'in a transaction that is just beginning': (client) => void client.query('BEGIN').catch(() => {}),
  'with read-only transactions': (client) => client.query('SET default_transaction_read_only = on'),
  'with a role that may do nothing': async (client) => {
    await client.query('DO $$ BEGIN CREATE ROLE lease_nobody; EXCEPTION WHEN OTHERS THEN NULL; END $$')
    await client.query('SET ROLE lease_nobody')
  },
  'with another path': (client) => client.query('SET search_path = pg_temp'),
  'with a time-out that nothing meets': (client) => client.query("SET statement_timeout = '1ms'"),
}

/** The same pool, whose driver does not tell in which state a connection is. */
function silent(pool: Pool): PostgresPool {
  return {
    async connect() {
      const client = await pool.connect()
      return {
        query: (text, values) => client.query(text, values),
        release: (destroy) => client.release(destroy),
        on: (event, listener) => client.on(event, listener),
        removeListener: (event, listener) => client.removeListener(event, listener),
      } satisfies PostgresPoolClient
    },
  }
}

for (const target of enoughOf(postgresTargets())) {
  describe(`connections that others have left, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    for (const tells of [true, false]) {
      const ways = Object.entries(LEFT)
      for (const [how, leave] of tells ? ways : enoughOf(ways)) {
        const told = tells ? '' : ', with a driver that does not tell'
        it(`${how}: what is answered was committed${told}`, async () => {
          const namespace = unique('ns')
          const pool = setting.newPool({ max: 2 })
          const leaveAll = async (): Promise<void> => {
            const clients = await Promise.all([pool.connect(), pool.connect()])
            for (const client of clients) await leave(client)
            for (const client of clients) client.release()
          }
          const substrate = setting.substrate({ pool: tells ? pool : silent(pool), namespace, listen: false })
          const others = setting.substrate({ namespace })
          /** As core does: what is not known is asked for again. What was undone is locked until the server hears of the end. */
          const settled = async (attempt: () => Promise<readonly Verdict[]>): Promise<Verdict | undefined> => {
            for (let unknowns = 0, contended = 0; ;) {
              const [verdict] = await attempt()
              if (verdict?.outcome === 'contended' && ++contended < 100) await sleep(20)
              else if (verdict?.outcome !== 'unknown' || ++unknowns === 4) return verdict
            }
          }
          await leaveAll()
          const op = claim('l', 'a', 60_000)
          const granted = await settled(() => substrate.apply([op], newCall()))
          expect(granted?.outcome).to.equal('granted')
          expect(await readOne(others, 'l')).to.deep.include({ holder: 'a', nonce: op.nonce })
          const term = granted?.holding ?? expect.fail()

          await leaveAll()
          const extended = await settled(() =>
            substrate.apply([extend('l', 'a', 600_000, { fencingToken: term.fencingToken })], newCall()),
          )
          expect(extended?.outcome).to.equal('granted')
          expect((await readOne(others, 'l'))?.remainingMs).to.be.greaterThan(60_000)

          await leaveAll()
          await others.apply(
            [{ kind: 'release', lease: 'l', holder: 'a', fencingToken: term.fencingToken, nonce: op.nonce }],
            newCall(),
          )
          await settled(async () => {
            const reading = await readOne(substrate, 'l').then(refused, unknown)
            return [reading]
          }).then((reading) => expect(reading).to.deep.include({ outcome: 'refused', holding: undefined }))
        })
      }
    }

    for (const isKnown of [true, false]) {
      const whose = isKnown ? 'that this process has used' : 'that only others have used'
      it(`idle connections ${whose}, dead without a word, cost one time-out`, async () => {
        const proxy = await startProxy(setting.url)
        try {
          const pool = setting.newPool({ connectionString: proxy.url(setting.url), max: 6, idleTimeoutMillis: 0 })
          const substrate = setting.substrate({ pool, listen: false })
          if (isKnown) await Promise.all(Array.from({ length: 6 }, () => substrate.time(newCall())))
          const used = await Promise.all(Array.from({ length: 6 }, () => pool.connect()))
          for (const client of used) client.release()
          await substrate.time(newCall())
          proxy.silence()
          const op = claim('l', 'a', 60_000)
          const giveUp = new AbortController()
          const lost = substrate.apply([op], newCall({ signal: giveUp.signal }))
          await eventually(() => proxy.counters.bytesSwallowed > 0, 'the request is swallowed')
          giveUp.abort(new Error('no answer'))
          expect((await lost)[0]?.outcome).to.equal('unknown')
          // Nobody gives this one up: on a dead connection it would never be answered.
          expect((await substrate.apply([op], newCall()))[0]?.outcome).to.equal('granted')
        } finally {
          await proxy.close()
        }
      })
    }

    for (const how of enoughOf([
      'with read-only transactions',
      'with a role that may do nothing',
      'with a time-out that nothing meets',
    ])) {
      it(`a call goes on until it has one that nobody left ${how}`, async () => {
        const pool = setting.newPool({ max: 20 })
        const clients = await Promise.all(Array.from({ length: 20 }, () => pool.connect()))
        for (const client of clients) await LEFT[how]?.(client)
        for (const client of clients) client.release()
        const [verdict] = await setting.substrate({ pool, listen: false }).apply([claim('l', 'a', 60_000)], newCall())
        expect(verdict?.outcome).to.equal('granted')
      })
    }

    it('a call that fails on new connections as well is given up, after two of them', async () => {
      const pool = setting.newPool({
        max: 20,
        options: '-c default_transaction_read_only=on',
        connectionString: setting.directUrl,
      })
      let made = 0
      pool.on('connect', () => made++)
      const [verdict] = await setting.substrate({ pool, listen: false }).apply([claim('l', 'a', 60_000)], newCall())
      expect(verdict?.outcome).to.equal('unknown')
      expect(String(verdict?.cause)).to.match(/read-only/)
      expect(made).to.equal(2)
    })

    const inMatrix = isMatrix() ? it : it.skip // takes a hundred connections
    inMatrix('a pool whose connections are all made in a transaction is given up, and says why', async () => {
      const pool = setting.newPool({ max: 1 })
      const bad: PostgresPool = {
        async connect() {
          const client = await pool.connect()
          await client.query('BEGIN')
          return client
        },
      }
      const [verdict] = await setting.substrate({ pool: bad, listen: false }).apply([claim('l', 'a', 1_000)], newCall())
      expect(verdict?.outcome).to.equal('unknown')
      expect(String(verdict?.cause)).to.match(/transaction that somebody had left open/)
    })
  })
}

describe('a connection that the server ends with its greeting', () => {
  it('fails its call, and ends no process', async () => {
    const message = (type: string, body: Buffer): Buffer => {
      const length = Buffer.alloc(4)
      length.writeInt32BE(body.length + 4)
      return Buffer.concat([Buffer.from(type), length, body])
    }
    const greeting = [message('R', Buffer.alloc(4)), message('K', Buffer.alloc(8)), message('Z', Buffer.from('I'))]
    const farewell = message('E', Buffer.from('SFATAL\0C57P01\0Mterminating connection\0\0'))
    let greeted = 0
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => {
        greeted++
        socket.end(Buffer.concat([...greeting, farewell])) // in one segment
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    const pool = new Pool({ host: '127.0.0.1', port, user: 'a', database: 'a' })
    const substrate = new PostgresSubstrate({ pool, namespace: 'ns', listen: false })
    const [verdict] = await substrate.apply([claim('l', 'a', 1_000)], newCall())
    expect(verdict?.outcome).to.equal('unknown')
    expect(greeted).to.be.greaterThan(0)
    await pool.end()
    await new Promise((resolve) => server.close(resolve))
  })
})
