import { inspect } from 'node:util'
import { expect } from 'chai'
import { readAdapterOptions } from '#src/adapter-parts.ts'
import { asLeaseError, ErrNotValid, notValid } from '#src/errors.ts'
import { checkNames, checkRequest } from '#src/lease.ts'
import { Manager } from '#src/manager.ts'
import { memoryClient, MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { withoutSecrets } from '#src/shown.ts'
import { SubstrateClient } from '#src/substrate-client.ts'

class Connection {
  readonly password = 'hunter2'
  toJSON(): object {
    return { url: 'redis://:hunter2@cache' }
  }
  toString(): string {
    return 'redis://:hunter2@cache'
  }
}

const revealing = {
  'a URL': 'postgres://app:hunter2@db/prod',
  'a URL without a user': 'redis://:hunter2@cache',
  'an address without a scheme': 'app:hunter2@db',
  'a connection string': 'host=db password=hunter2',
  'an address with options': 'cache:6379,password=hunter2,ssl=true',
  JSON: '{"user":"app","password":"hunter2"}',
  'a header': 'Bearer hunter2',
  'a long text': `${'x'.repeat(90)}hunter2`,
  'a URL object': new URL('postgres://app:hunter2@db/prod'),
  'a configuration': { host: 'db', user: 'app', password: 'hunter2' },
  'a nested configuration': { hosts: 'h', auth: { username: 'u', password: 'hunter2' } },
  'a list of URLs': ['redis://:hunter2@one', 'redis://:hunter2@two'],
  'a map': new Map([['password', 'hunter2']]),
  'an object with a URL as its key': { 'redis://:hunter2@cache': true },
  'an object that describes itself': new Connection(),
  'an object without a prototype': Object.assign(Object.create(null) as object, { password: 'hunter2' }),
  'a function that contains it': () => 'hunter2',
  'a symbol': Symbol('hunter2'),
  'a buffer': Buffer.from('hunter2'),
}

const raise = (error: Error): never => {
  throw error
}

/** All that a log may make of what was thrown. */
function told(call: () => unknown): string {
  try {
    call()
  } catch (error) {
    expect(error).to.be.instanceOf(ErrNotValid)
    return `${inspect(error, { depth: 9 })} ${JSON.stringify(error)} ${String(error)}`
  }
  return expect.fail('must throw')
}

describe('What is shown of a value: nothing that may be a password', () => {
  for (const [what, value] of Object.entries(revealing)) {
    it(`no message, problem or detail reveals ${what} that was passed where something else was expected`, () => {
      const given = value as never
      const asName = typeof value === 'string' ? ` ${value}` : value // broken as a name in any case
      const calls = [
        () => raise(notValid([{ argument: 'pool', rule: 'must be a pool', value }], { lease: given, holder: given })),
        () => readAdapterOptions(given, ['pool'], { client: true }).finish(),
        () =>
          readAdapterOptions(
            { namespace: '', clock: value, events: value, requestTimeout: value, [`x`]: value },
            ['clock'],
            { client: true },
          ).finish(),
        () => checkNames({ lease: asName as never, holder: given }),
        () =>
          checkRequest(given, { holder: given, duration: given, value: given, announce: given, [`x`]: value } as never),
        () => new Manager({ client: value } as never),
        () => new Manager(given),
        () => new SubstrateClient({ substrate: value } as never),
        () => new MemorySubstrate({ store: given }),
        () => new MemorySubstrate({ url: value } as never),
        () => memoryClient({ namespace: asName as never, requestTimeout: value } as never),
      ]
      for (const call of calls) {
        expect(told(call), String(call)).not.to.include('hunter2')
      }
    })
  }

  it('no message reveals the value of an option that is none, however harmless it looks', () => {
    const call = (): unknown =>
      readAdapterOptions({ namespace: 'n', password: 'hunter2', pin: 1234567 }, [], { client: true }).finish()
    expect(told(call)).to.match(/password is not an option \(got a string of 7 characters\)/)
    expect(told(call)).not.to.match(/hunter2|1234567/)
    expect(told(() => new Manager({ client: memoryClient(), password: 'hunter2' } as never))).not.to.include('hunter2')
  })

  it('a message names the class or the options of what was passed', () => {
    const message = (value: unknown): string => notValid([{ argument: 'pool', rule: 'must be a pool', value }]).message
    expect(message({ host: 'db', port: 5432 })).to.equal('pool must be a pool (got an object with host, port)')
    expect(message(new Connection())).to.equal('pool must be a pool (got a Connection)')
    expect(message(new URL('redis://cache'))).to.equal('pool must be a pool (got a URL)')
    const trap = (): never => {
      throw new Error('trap')
    }
    expect(message(new Proxy({}, { get: trap, ownKeys: trap, getPrototypeOf: trap }))).to.equal(
      'pool must be a pool (got an object)',
    )
  })

  it('the words of a driver or server are passed on without passwords', () => {
    for (const [text, without] of [
      ['connect to postgres://app:hunter2@db/prod failed', 'connect to postgres://…@db/prod failed'],
      [`invalid dsn "postgres://bob:it's-hunter2@db/x"`, 'invalid dsn "postgres://…@db/x"'],
      [`no "postgres://bob:<"hunter2>@db/x"`, 'no "postgres://…@db/x"'],
      ['Invalid URL: redis://:hunt@er2@cache:6379', 'Invalid URL: redis://…@cache:6379'],
      ['invalid dsn "host=db password=hunter2 user=app"', 'invalid dsn "host=db password=… user=app"'],
      ['bad config {"password": "hunter 2", "port": 1}', 'bad config {"password": …, "port": 1}'],
      [
        "ERR unknown command 'AUTH', with args beginning with: 'hunter2' ",
        "ERR unknown command 'AUTH', with args beginning with: …",
      ],
      ['password authentication failed for user "app"', 'password authentication failed for user "app"'],
    ] as const) {
      expect(withoutSecrets(text)).to.equal(without)
    }
    expect(asLeaseError(new Error('lost redis://:hunter2@cache')).message).to.equal(
      'it may have happened: the client failed: lost redis://…@cache',
    )
  })

  it('a message has a limit, however much was given', () => {
    const problems = Array.from({ length: 1_000 }, (_, index) => ({ argument: `a${index}`, rule: 'is bad', value: 1 }))
    expect(notValid(problems).message).to.match(/; a19 is bad \(got 1\); and 980 more problems$/)
    expect(notValid(problems).problems).to.have.length(1_000)
    const rule = `must be shorter (as "${'x'.repeat(100_000)}" it is too long)`
    expect(notValid([{ argument: 'id', rule, value: 1 }]).message.length).to.be.below(400)
    expect(asLeaseError(new Error('x'.repeat(100_000))).message.length).to.be.below(1_100)
  })

  it('what is no object where options are expected is one problem, also a text, and null is no TypeError', () => {
    const client = memoryClient()
    for (const wrong of ['a text', null, 5] as never[]) {
      for (const call of [
        () => new MemoryStore(wrong),
        () => new MemorySubstrate(wrong),
        () => checkRequest('a', wrong),
      ]) {
        try {
          call()
          expect.fail('must throw')
        } catch (error) {
          expect((error as ErrNotValid).problems, String(call)).to.have.length(1)
        }
      }
    }
    return client.refresh(1 as never).then(
      () => expect.fail('must reject'),
      (error: unknown) => expect(error).to.be.instanceOf(ErrNotValid),
    )
  })

  it('no call throws at once where an option is a getter that throws: it rejects with ErrNotValid', async () => {
    const manager = new Manager({ client: memoryClient() })
    const hold = await manager.hold('db', 'a', { duration: 30_000 })
    const options = {
      get signal(): never {
        throw new Error('hunter2')
      },
      get all(): never {
        throw new Error('hunter2')
      },
    } as never
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      claim: () => manager.claim('db', 'a', 1_000, options),
      hold: () => manager.hold('db', 'a', options),
      holdAny: () => manager.holdAny(['db'], 'a', options),
      release: () => manager.release('db', 'a', options),
      revoke: () => manager.revoke('db', options),
      pin: () => manager.pin('db', 'a', options),
      find: () => manager.find('db', options),
      waitUntilExpired: () => manager.waitUntilExpired('db', options),
      'Hold.release': () => hold.release(options),
    }
    for (const [name, call] of Object.entries(calls)) {
      const error: unknown = await call().catch((thrown: unknown) => thrown)
      expect(error, name).to.be.instanceOf(ErrNotValid)
      expect(String(error), name).to.include('must be readable').and.not.include('hunter2')
    }
    expect(hold.held).to.equal(true)
    await manager.stop()
  })
})
