/** Calls that are given up, and pools that give nothing: what becomes of connections and backends. */
import { createServer, type AddressInfo, type Server } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { expect } from 'chai'
import { ErrUnknown } from 'lease-core'
import { enoughOf, postgresTargets, startProxy, until } from 'lease-servers'
import { postgresClient, PostgresSubstrate, type PostgresPool, type PostgresPoolClient } from 'lease-postgres'
import { Client, Pool } from 'pg'
import { claim, grant, newCall, noneUnheard, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** Half of it is for a connection beside the pool: none that is sound takes so long. */
const PATIENT_MS = 4_000

for (const target of enoughOf(postgresTargets())) {
  describe(`calls that are given up, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    const backendsOf = async (application: string): Promise<number> => {
      const { rows } = await setting.pool.query(
        'SELECT count(*)::int AS backends FROM pg_stat_activity WHERE application_name = $1',
        [application],
      )
      return rows[0].backends
    }

    /** While somebody has the table of the leases to itself. */
    const whileLocked = async (work: () => Promise<void>): Promise<void> => {
      const locker = await setting.pool.connect()
      try {
        await locker.query('BEGIN; LOCK TABLE lease IN ACCESS EXCLUSIVE MODE')
        await work()
      } finally {
        await locker.query('ROLLBACK')
        locker.release()
      }
    }

    for (const cancels of [true, false]) {
      it(`leave no backend behind that waits for a lock on the table${cancels ? '' : ', also where the driver cannot cancel'}`, async () => {
        const application = unique('waiting')
        const own = setting.newPool({ max: 2, application_name: application })
        const bare: PostgresPool = {
          async connect() {
            const client = await own.connect()
            return {
              query: (text, values) => client.query(text, values),
              release: (destroy) => client.release(destroy),
            }
          },
        }
        const pool = cancels ? own : bare
        const namespace = unique('ns')
        const client = postgresClient({ pool, namespace, listen: false, requestTimeout: 300 })
        /** With time for what must succeed. */
        const patient = postgresClient({ pool, namespace, listen: false, requestTimeout: 60_000 })
        const request = { holder: 'a', duration: 180_000 }
        await patient.refresh()
        await whileLocked(async () => {
          const calls = ['l0', 'l1', 'l2'].flatMap((lease) => [
            client.claimLease(lease, request),
            client.pinLease(lease, 'e'),
            client.releaseLease(lease, 'a', { term: { fencingToken: 1n, nonce: undefined } }),
            // These are no functions that give up by themselves.
            ...(cancels ? [client.refresh([lease]), client.refresh(), client.pinned()] : []),
          ])
          for (const { status, reason } of (await Promise.allSettled(calls)) as PromiseRejectedResult[]) {
            expect(status).to.equal('rejected')
            expect(reason).to.be.instanceOf(ErrUnknown)
          }
          await until('their backends have ended', async () => (await backendsOf(application)) <= 2)
        })
        await patient.claimLease('l0', request)
        await Promise.all([client.close(), patient.close()])
      })
    }

    it('give their connection back when the answer comes a little late', async () => {
      await using proxy = await startProxy(setting.url)
      const pool = setting.newPool({ connectionString: proxy.url(setting.url), max: 4 })
      const substrate = setting.substrate({ pool, listen: false })
      // On a slow machine it may take too long: then the connection is closed, rightly.
      await until('the connection is given back', async () => {
        await grant(substrate, claim(unique('warm'), 'a', 60_000)) // a connection is idle
        let isClosed = false
        pool.once('remove', () => (isClosed = true))
        proxy.hold()
        const giveUp = new AbortController()
        const pending = substrate.apply([claim(unique('slow'), 'a', 60_000)], newCall({ signal: giveUp.signal }))
        await until('the statement is on its way', () => pool.idleCount === 0)
        giveUp.abort(new Error('no answer'))
        proxy.resume()
        await pending
        await until('it is given back, or closed', () => isClosed || pool.idleCount === 1)
        return !isClosed
      })
    })

    it('close their connection when no answer comes', async () => {
      await using proxy = await startProxy(setting.url)
      const pool = setting.newPool({ connectionString: proxy.url(setting.url), max: 4 })
      const substrate = setting.substrate({ pool, listen: false })
      await grant(substrate, claim('warm', 'a', 60_000))
      proxy.silence()
      const giveUp = new AbortController()
      const pending = substrate.apply([claim(unique('lost'), 'a', 60_000)], newCall({ signal: giveUp.signal }))
      await until('the statement is on its way', () => pool.idleCount === 0)
      giveUp.abort(new Error('no answer'))
      expect((await pending)[0]?.outcome).to.equal('unknown')
      expect(pool.totalCount).to.equal(0)
    })
  })

  describe(`a pool that gives nothing, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    it('does not keep a call from being made: it is made beside the pool', async () => {
      const application = unique('beside')
      const pool = setting.newPool({ max: 1, application_name: application })
      const substrate = setting.substrate({ pool, listen: false })
      const busy = await pool.connect()
      const verdicts = await Promise.all(
        ['l0', 'l1'].map((name) => substrate.apply([claim(name, 'a', 60_000)], newCall({ timeoutMs: PATIENT_MS }))),
      )
      expect(verdicts.map(([verdict]) => verdict?.outcome)).to.deep.equal(['granted', 'granted'])
      busy.release()
      // On a slow machine it may be closed instead: a call was given up in the meantime.
      const isBack = (): boolean => pool.waitingCount === 0 && pool.idleCount === pool.totalCount
      await until('what the pool gives in the end is given back', isBack)
      await until('what was made beside it is closed', async () => {
        const { rows } = await setting.pool.query(
          'SELECT count(*)::int AS backends FROM pg_stat_activity WHERE application_name = $1',
          [application],
        )
        return rows[0].backends === pool.totalCount
      })
    })

    it('because its attempts to connect hang for ever, is waited for once', async () => {
      // Those that the pool makes: the ones beside it are bounded.
      const hanging = function (options: { connectionTimeoutMillis?: number }): Client {
        const client = new Client(options)
        if (options.connectionTimeoutMillis === undefined) client.connect = () => new Promise<never>(() => {})
        return client
      }
      const pool = new Pool({ connectionString: setting.url, max: 2 }) // not ended: it would wait for the two
      Object.assign(pool, { Client: hanging })
      const substrate = setting.substrate({ pool, listen: false })
      const calls = Array.from({ length: 4 }, (_, nth) => async () => {
        const [verdict] = await substrate.apply([claim(`l${nth}`, 'a', 60_000)], newCall({ timeoutMs: PATIENT_MS }))
        return verdict?.outcome
      })
      for (const call of calls) expect(await call()).to.equal('granted')
    })

    it('is asked for its own settings, the hidden password included', async () => {
      const asked: unknown[] = []
      class Asked extends Client {
        constructor(options: { password?: unknown; max?: unknown; connectionTimeoutMillis?: unknown }) {
          super(options as never)
          asked.push({
            password: options.password,
            max: options.max,
            isBounded: options.connectionTimeoutMillis === PATIENT_MS / 2,
          })
        }
      }
      const pool = setting.newPool({ max: 1, password: 'secret' })
      const busy = await pool.connect()
      Object.assign(pool, { Client: Asked })
      const substrate = setting.substrate({ pool, listen: false })
      const verdict = (await substrate.apply([claim('l', 'a', 60_000)], newCall({ timeoutMs: PATIENT_MS })))[0]
      expect(verdict?.outcome).to.equal('granted')
      expect(asked).to.deep.equal([{ password: 'secret', max: 1, isBounded: true }])
      busy.release()
    })
  })
}

describe('a request to cancel', () => {
  const backend = { host: '127.0.0.1', processID: 17, secretKey: -5 }
  const expected = Buffer.from([0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 17, 255, 255, 255, 251])

  /** A call is given up that waits on a connection which tells this of its backend. */
  const giveUpOn = async (told: object): Promise<void> => {
    const client = {
      query: () => new Promise<never>(() => {}),
      release: () => {},
      ...told,
    } satisfies PostgresPoolClient
    const substrate = new PostgresSubstrate({ pool: { connect: async () => client }, namespace: 'ns', listen: false })
    const giveUp = new AbortController()
    void substrate.apply([claim('l', 'a', 1_000)], newCall({ signal: giveUp.signal }))
    await new Promise(setImmediate)
    giveUp.abort(new Error('no answer'))
  }

  const received = async (server: Server, ssl: unknown, told: object = backend): Promise<Buffer> => {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const heard = new Promise<Buffer>((resolve) => server.once('heard', resolve))
    await giveUpOn({ ...told, ssl, port: (server.address() as AddressInfo).port })
    const bytes = await heard
    server.close()
    return bytes
  }

  it('names the backend and its key', async () => {
    const server = createServer((socket) => socket.once('data', (bytes) => server.emit('heard', bytes)))
    expect(await received(server, false)).to.deep.equal(expected)
  })

  it('names the same key where the driver reads it without a sign, as postgres.js does: pgbouncer makes up both halves', async () => {
    const server = createServer((socket) => socket.once('data', (bytes) => server.emit('heard', bytes)))
    const told = { ...backend, processID: 2 ** 32 - 17, secretKey: 2 ** 32 - 5 }
    const bytes = Buffer.from(expected).fill(Buffer.from([255, 255, 255, 239]), 8, 12)
    expect(await received(server, false, told)).to.deep.equal(bytes)
  })

  it('goes over TLS where the connection did, and not at all where that is refused', async () => {
    for (const answer of ['S', 'N']) {
      const secure = createTlsServer({ key: KEY, cert: CERT }, (socket) => {
        socket.on('error', () => {})
        socket.once('data', (bytes) => server.emit('heard', bytes))
      })
      const server = createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', (bytes) => {
          expect(bytes).to.deep.equal(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]))
          socket.pause()
          socket.write(answer)
          if (answer === 'S') secure.emit('connection', socket)
          else socket.once('close', () => server.emit('heard', Buffer.alloc(0))).resume()
        })
      })
      const bytes = await received(server, { rejectUnauthorized: false })
      expect(bytes).to.deep.equal(answer === 'S' ? expected : Buffer.alloc(0))
    }
  })

  it('is not sent where the driver does not tell of the backend, and a server that is away ends nothing', async () => {
    const server = createServer((socket) => socket.destroy())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    let connections = 0
    server.on('connection', () => connections++)
    for (const told of [{}, { ...backend, port, secretKey: Buffer.alloc(32) }, { ...backend, port: 1, ssl: true }]) {
      await giveUpOn(told)
    }
    await giveUpOn({ ...backend, port })
    await until('only the last one is sent', () => connections > 0)
    expect(connections).to.equal(1)
    server.close()
  })
})

/** Of nobody; good for a hundred years. */
const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg7vH942rdrghIk2ed
T0HflQgUx6bIFG2N6sJIay4VYE+hRANCAASnXrmoamysw9GffuxZHShMm1gaeppf
+mOt5/gTmLxb96D5OZ/e5f9jrbg61/bnGJ8p5Wu7GVGdgBFqhxCbS/mo
-----END PRIVATE KEY-----`
const CERT = `-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUbba41qGmbQGXziBWdUi19UCXbncwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyODIzMTUyNFoYDzIxMjYxMTA0
MjMxNTI0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASnXrmoamysw9GffuxZHShMm1gaeppf+mOt5/gTmLxb96D5OZ/e5f9j
rbg61/bnGJ8p5Wu7GVGdgBFqhxCbS/moo1MwUTAdBgNVHQ4EFgQUKcoMJNO4n37G
igRqWA5QTye4KRkwHwYDVR0jBBgwFoAUKcoMJNO4n37GigRqWA5QTye4KRkwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAqZorM/TOxtc+Zwp/ntLv
qevBUEGdCZYhLEUxHxTJ02wCIBYp1VUoJf3MvVLzWOyBPZP6PPlk8QAbmuLL4Af5
MH2d
-----END CERTIFICATE-----`
