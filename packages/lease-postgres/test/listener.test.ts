import { expect } from 'chai'
import { LeaseEvents, type LeaseChange } from 'lease-core'
import { enoughOf, postgresTargets, startPostgres, startProxy } from 'lease-servers'
import { migrate, postgresClient, PostgresSubstrate } from 'lease-postgres'
import { Client, Pool } from 'pg'
import {
  claim,
  eventually,
  noneUnheard,
  expire,
  extend,
  grant,
  newCall,
  pin,
  release,
  settle,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, releaseHeld, type Setting } from './setting.ts'

noneUnheard()

for (const target of enoughOf(postgresTargets())) {
  describe(`hints, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    const listeners = async (application: string): Promise<number[]> => {
      const { rows } = await setting.pool.query<{ pid: number }>(
        `SELECT pid FROM pg_stat_activity WHERE query LIKE '%LISTEN %' AND application_name = $1`,
        [application],
      )
      return rows.map(({ pid }) => pid)
    }
    const watched = async (watch: ((listener: (change: LeaseChange) => void) => () => void) | undefined) => {
      const changes: LeaseChange[] = []
      const stop = watch?.((change) => changes.push(change))
      await eventually(() => changes.length > 0)
      expect(changes).to.deep.equal([{ kind: 'resync' }])
      changes.length = 0
      return { changes, stop: stop ?? expect.fail() }
    }

    /** All changes up to now. Notifications come in the order of the commits, so one that is sent now comes after them. */
    const upToNow = async (substrate: PostgresSubstrate, changes: readonly LeaseChange[]): Promise<LeaseChange[]> => {
      const last = unique('last')
      await grant(substrate, claim(last, 'a', 60_000))
      await releaseHeld(substrate, last)
      const isLast = (change: LeaseChange): boolean => change.kind === 'vacated' && change.lease === last
      await eventually(() => changes.some(isLast))
      return changes.filter((change) => !isLast(change))
    }

    it('tell of every way to become vacant, within the namespace only', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      const other = setting.substrate()
      const { changes, stop } = await watched(setting.substrate({ namespace }).watch)
      const lease = `it's "quoted" \\ ü`.replaceAll(' ', '_')
      await grant(other, claim('other', 'a', 60_000))
      await releaseHeld(other, 'other')
      await grant(substrate, claim(lease, 'a', 60_000))
      await settle(substrate, release(lease, 'b', { fencingToken: 1n }))
      await releaseHeld(substrate, lease)
      await grant(substrate, claim('expired', 'a', 1))
      await setting.lapsed('expired')
      for (let twice = 0; twice < 2; twice++) await settle(substrate, expire('expired'))
      await grant(substrate, claim('unpinned', 'a', 60_000))
      await settle(substrate, pin('unpinned', 'e', 'g'))
      await grant(substrate, claim('kept', 'a', 60_000))
      await settle(substrate, pin('kept', 'e', 'g'))
      await setting.lapse('unpinned')
      for (const name of ['kept', 'unpinned']) await settle(substrate, unpin(name, 'e', 'g'))
      expect(await upToNow(substrate, changes)).to.deep.equal(
        [lease, 'expired', 'unpinned'].map((name) => ({ kind: 'vacated', lease: name })),
      )
      stop()
    })

    it('tell of new terms and new values where that is asked for', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      const { changes, stop } = await watched(setting.substrate({ namespace }).watch)
      const announce = true
      const { fencingToken } = await grant(substrate, claim('told', 'a', 60_000, { announce }))
      const silent = await grant(substrate, claim('silent', 'a', 60_000))
      await settle(substrate, claim('told', 'b', 60_000, { announce }))
      await grant(substrate, extend('silent', 'a', 60_000, { fencingToken: silent.fencingToken, value: 'v' }))
      await grant(substrate, extend('told', 'a', 90_000, { fencingToken, announce }))
      for (let twice = 0; twice < 2; twice++) {
        await grant(substrate, extend('told', 'a', 60_000, { fencingToken, value: 'v', announce }))
      }
      expect(await upToNow(substrate, changes)).to.deep.equal([1, 2].map(() => ({ kind: 'changed', lease: 'told' })))
      stop()
    })

    it('of thousands of names fit into messages', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      const { changes, stop } = await watched(substrate.watch)
      const names = Array.from({ length: 2_000 }, (_, index) => `${'"\\ü'.repeat(60)}${index}`)
      const claims = names.map((name) => claim(name, 'a', 60_000))
      await substrate.apply(claims, newCall())
      await substrate.apply(
        claims.map(({ lease, nonce }) => release(lease, 'a', { nonce })),
        newCall(),
      )
      await eventually(() => changes.length >= names.length)
      expect(new Set(changes.map((change) => change.kind === 'vacated' && change.lease))).to.deep.equal(new Set(names))
      stop()
    })

    it('that nobody understands mean: read again', async () => {
      const substrate = setting.substrate()
      const { changes, stop } = await watched(substrate.watch)
      const { rows } = await setting.pool.query<{ query: string }>(
        `SELECT query FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = current_database()`,
      )
      for (const payload of ['*', '', '{}', '[1]']) {
        for (const { query } of rows) await setting.pool.query(`${query.replace('LISTEN', 'NOTIFY')}, '${payload}'`)
      }
      await eventually(() => changes.length >= 4)
      expect(changes.every(({ kind }) => kind === 'resync')).to.equal(true)
      stop()
    })

    it('flow again after the connection was terminated, and a resync says that some may have been lost', async () => {
      const namespace = unique('ns')
      const application = unique('app')
      const substrate = setting.substrate({ namespace, pool: setting.newPool({ application_name: application }) })
      const { changes, stop } = await watched(substrate.watch)
      let former: number | undefined
      for (let round = 0; round < 2; round++) {
        const present = async (): Promise<number[]> => (await listeners(application)).filter((pid) => pid !== former)
        await eventually(async () => (await present()).length === 1)
        const [pid] = await present()
        former = pid
        await setting.pool.query('SELECT pg_terminate_backend($1)', [pid])
        await eventually(() => changes.length >= 1)
        expect(changes).to.deep.equal([{ kind: 'resync' }])
        await grant(substrate, claim('l', 'a', 60_000))
        await releaseHeld(substrate, 'l')
        await eventually(() => changes.length >= 2)
        expect(changes[1]).to.deep.equal({ kind: 'vacated', lease: 'l' })
        changes.length = 0
      }
      stop()
    })

    for (const isLate of [false, true]) {
      it(`come over a connection that a promise makes, one for all who ask${isLate ? ', also one that failed at first' : ''}`, async () => {
        let made = 0
        const listen = async (): Promise<Client> => {
          await new Promise(setImmediate)
          if (++made === 1 && isLate) throw new Error('no token yet')
          return new Client({ connectionString: setting.directUrl })
        }
        const namespace = unique('ns')
        const substrates = [setting.substrate({ namespace, listen }), setting.substrate({ listen })]
        const all = await Promise.all(substrates.map(({ watch }) => watched(watch)))
        expect(made).to.equal(isLate ? 2 : 1)
        await grant(setting.substrate({ namespace }), claim('l', 'a', 60_000))
        await releaseHeld(setting.substrate({ namespace }), 'l')
        await eventually(() => (all[0]?.changes.length ?? 0) >= 1)
        for (const { stop } of all) stop()
      })
    }

    const hopeless: Readonly<Record<string, { readonly listen: () => unknown; readonly says: RegExp }>> = {
      refused: { listen: () => new Client({ host: '127.0.0.1', port: 1 }), says: /nothing listens at the address/ },
      'of a database that is not there': {
        listen: () => new Client({ connectionString: new URL('/nowhere', setting.directUrl).href }),
        says: /nowhere/,
      },
      'of nothing': { listen: () => undefined, says: /listen must make a connection/ },
      'of a promise that rejects': { listen: async () => Promise.reject(new Error('no token')), says: /no token/ },
    }
    for (const [what, { listen, says }] of Object.entries(hopeless)) {
      it(`that never come, for want of a connection ${what}, are reported once`, async () => {
        const events = new LeaseEvents()
        const client = postgresClient({
          events,
          pool: setting.pool,
          namespace: unique('ns'),
          listen: listen as () => Client,
        })
        const warnings: string[] = []
        events.subscribe((event) => {
          if (event.type === 'warning' && event.warning === 'no-hints') warnings.push(event.message)
        })
        const stop = client.subscribe(() => {})
        await eventually(() => warnings.length > 0)
        expect(warnings).to.have.length(1)
        expect(warnings[0]).to.match(says)
        stop()
        await client.close()
      })
    }

    it('that nothing can bring end no process, and keep nobody from closing', async () => {
      const throwing = (): Client => {
        const client = new Client({ connectionString: setting.directUrl })
        const end = (): void => Client.prototype.end.call(client, () => {})
        return Object.assign(client, {
          end: () => {
            end()
            throw new Error('no farewell')
          },
        })
      }
      const never = new Promise<never>(() => {})
      const odd: readonly unknown[] = [
        () => undefined,
        () => ({}),
        () => never,
        throwing,
        async () => ({ connect: () => never, query: () => never, on: () => {}, end: () => never }),
        async () => Promise.reject(new Error('no token')),
        () => {
          throw new Error('no token')
        },
      ]
      for (const listen of odd as (() => Client)[]) {
        let made = 0
        const count = (): Client => {
          made++
          return listen()
        }
        const substrate = setting.substrate({ listen: count })
        const stop = substrate.watch?.(() => {})
        await eventually(() => made > 0)
        stop?.()
        await substrate.close()
      }
    })

    it('are not connected for when they came too late for anybody to want them', async () => {
      let resolve = (_client: Client): void => {}
      const substrate = setting.substrate({ listen: () => new Promise<Client>((done) => (resolve = done)) })
      const stop = substrate.watch?.(() => {})
      await new Promise(setImmediate)
      stop?.()
      await substrate.close()
      const client = new Client({ connectionString: setting.directUrl })
      let asked = 0
      Object.assign(client, { connect: async () => void asked++ })
      resolve(client)
      await new Promise(setImmediate)
      expect(asked).to.equal(0)
    })

    it('come over a connection of their own choice, made anew by the factory, even when that fails at first', async () => {
      await using proxy = await startProxy(setting.url)
      let made = 0
      const substrate = setting.substrate({
        listen: () => {
          if (++made === 2) throw new Error('the factory fails once')
          return new Client({ connectionString: proxy.url(setting.url) })
        },
      })
      const { changes, stop } = await watched(substrate.watch)
      await proxy.refuse()
      await eventually(() => made > 2)
      expect(changes).to.deep.equal([])
      await proxy.accept()
      await eventually(() => changes.length > 0)
      expect(changes).to.deep.equal([{ kind: 'resync' }])
      stop()
    })

    it('take one connection for all who watch, outside of the pool, and none when nobody does', async () => {
      const application = unique('app')
      const pool = setting.newPool({ max: 1, application_name: application })
      const substrate = setting.substrate({ pool })
      const stops = [substrate, substrate, substrate].map((one) => one.watch?.(() => {}))
      await eventually(async () => (await listeners(application)).length === 1)
      await grant(substrate, claim(unique('l'), 'a', 60_000))
      for (const stop of stops) stop?.()
      stops[0]?.()
      await eventually(async () => (await listeners(application)).length === 0)
      const { changes } = await watched(substrate.watch) // and again
      await substrate.close()
      await substrate.close()
      await eventually(async () => (await listeners(application)).length === 0)
      expect(changes).to.deep.equal([])
      await grant(substrate, claim(unique('l'), 'a', 60_000)) // the pool is the user's
    })

    for (const own of [false, true]) {
      it(`of many namespaces come over one connection ${own ? 'of one factory' : 'of one pool'}, each to its own, and break and return together`, async () => {
        const application = unique('app')
        const settings = { connectionString: setting.url, application_name: application }
        const pool = own ? setting.pool : setting.newPool(settings)
        const listen = own ? { listen: () => new Client(settings) } : {}
        const substrates = Array.from({ length: 12 }, () => setting.substrate({ pool, ...listen }))
        const all = await Promise.all(substrates.map(({ watch }) => watched(watch)))
        const [first, second] = substrates as [PostgresSubstrate, PostgresSubstrate]
        const [heard, other] = all as [(typeof all)[0], (typeof all)[0]]
        expect(await listeners(application)).to.have.length(1)

        await grant(first, claim('l', 'a', 60_000))
        await releaseHeld(first, 'l')
        expect(await upToNow(first, heard.changes)).to.deep.equal([{ kind: 'vacated', lease: 'l' }])
        expect(await upToNow(second, other.changes)).to.deep.equal([])

        heard.stop()
        other.changes.length = 0
        await grant(second, claim('l', 'a', 60_000))
        await releaseHeld(second, 'l')
        expect(await upToNow(second, other.changes)).to.deep.equal([{ kind: 'vacated', lease: 'l' }])

        for (const { changes } of all) changes.length = 0
        await setting.pool.query('SELECT pg_terminate_backend($1)', [(await listeners(application))[0]])
        await eventually(() => all.slice(1).every(({ changes }) => changes.some(({ kind }) => kind === 'resync')))
        expect(await listeners(application)).to.have.length(1)
        expect(heard.changes).to.deep.equal([])
        for (const { stop } of all.slice(1)) stop()
        await eventually(async () => (await listeners(application)).length === 0)
      })
    }

    it('end without waiting for a server that does not answer', async () => {
      await using proxy = await startProxy(setting.url)
      const substrate = setting.substrate({ listen: () => new Client({ connectionString: proxy.url(setting.url) }) })
      await watched(substrate.watch)
      proxy.hold() // no answer, and nobody reads that we hang up
      await substrate.close()
    })

    it('are neither sent nor heard where that is switched off', async () => {
      const namespace = unique('ns')
      expect(setting.substrate({ listen: false })).to.have.property('watch', undefined)
      const silent = setting.substrate({ namespace, notify: false })
      const { changes, stop } = await watched(setting.substrate({ namespace }).watch)
      await grant(silent, claim('l', 'a', 60_000))
      await releaseHeld(silent, 'l')
      expect(await upToNow(setting.substrate({ namespace }), changes)).to.deep.equal([])
      stop()
    })
  })
}

describe('hints, where the password is rotated', () => {
  it('flow again over a connection that asks for the new one', async () => {
    await using server = await startPostgres()
    const settings = new URL(server.passwordUrl)
    let password = decodeURIComponent(settings.password)
    const pool = new Pool({
      host: settings.hostname,
      port: Number(settings.port),
      user: settings.username,
      database: 'postgres',
      password: () => password,
    })
    const admin = new Pool({ connectionString: server.url })
    await migrate(admin, { schema: 'public' })
    await admin.query(`GRANT ALL ON ALL TABLES IN SCHEMA public TO ${settings.username}`)
    const substrate = new PostgresSubstrate({ pool, namespace: 'ns', schema: 'public' })
    let resyncs = 0
    substrate.watch?.(() => resyncs++)
    await eventually(() => resyncs >= 1)
    password = 'of today'
    await admin.query(`ALTER ROLE ${settings.username} PASSWORD '${password}'`)
    await admin.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1', [settings.username])
    await eventually(() => resyncs >= 2)
    await substrate.close()
    await Promise.all([pool.end(), admin.end()])
  })
})
