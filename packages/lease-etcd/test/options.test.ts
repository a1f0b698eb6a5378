import { expect } from 'chai'
import { ErrNotValid } from 'lease-core'
import { etcdClient, EtcdSubstrate, failFast, type EtcdOptions } from 'lease-etcd'
import { Etcd3 } from 'etcd3'
import { inspect } from 'node:util'

describe('the options of lease-etcd', () => {
  const etcd = new Etcd3({ hosts: 'http://127.0.0.1:1', ...failFast() })
  after(() => etcd.close())

  const problemsOf = (make: () => unknown): Record<string, string> => {
    try {
      make()
    } catch (error) {
      expect(error).to.be.instanceOf(ErrNotValid)
      return Object.fromEntries((error as ErrNotValid).problems.map(({ argument, rule }) => [argument, rule]))
    }
    return {}
  }

  it('need an Etcd3 and a namespace, and nothing else', async () => {
    await etcdClient({ etcd, namespace: 'n' }).close()
    expect(problemsOf(() => etcdClient({} as EtcdOptions))).to.have.keys('etcd', 'namespace')
    expect(problemsOf(() => etcdClient(undefined as unknown as EtcdOptions))).to.have.keys('options')
  })

  it('are all checked before anything is said, those of core too', () => {
    const bad = {
      etcd: 'http://127.0.0.1:2379',
      namespace: 'x'.repeat(256),
      prefix: 'lease',
      watch: 1,
      clock: {},
      events: {},
      requestTimeout: -1,
      Namespace: 'typo',
    }
    expect(problemsOf(() => etcdClient(bad as unknown as EtcdOptions))).to.have.keys(Object.keys(bad))
  })

  it('of a substrate are its own only', () => {
    const options = { etcd, namespace: 'n', requestTimeout: 1_000 }
    expect(problemsOf(() => new EtcdSubstrate(options))).to.have.keys('requestTimeout')
  })

  it('take the Etcd3 itself and no namespace() of it', () => {
    const namespaced = etcd.namespace('app/') as Etcd3
    expect(problemsOf(() => etcdClient({ etcd: namespaced, namespace: 'n' }))['etcd']).to.match(/prefix/)
  })

  it('that are wrong tell no password that was given in the place of an Etcd3', () => {
    const auth = { username: 'app', password: 'hunter2' }
    const driver = new Etcd3({ hosts: 'http://127.0.0.1:1', auth, ...failFast() })
    const inHosts = ['http://app:hunter2@127.0.0.1:1', 'app:hunter2@db'].map(
      (host) => new Etcd3({ hosts: [host], ...failFast() }),
    )
    for (const [given, rule] of [
      ['http://app:hunter2@db', /must be an Etcd3/],
      [{ hosts: 'db', auth }, /must be an Etcd3: .*hosts, auth/],
      [driver.namespace('app/'), /namespace\(\)/],
      ...inHosts.map((one) => [one, /password in its hosts: give its option auth/] as const),
    ] as const) {
      let error: unknown
      try {
        etcdClient({ etcd: given as Etcd3, namespace: 'n' })
      } catch (thrown) {
        error = thrown
      }
      expect(error).to.be.instanceOf(ErrNotValid)
      expect((error as ErrNotValid).message).to.match(rule)
      expect(inspect(error, { depth: 20, showHidden: true })).not.to.include('hunter2')
    }
    for (const one of [driver, ...inHosts]) one.close()
  })

  it('a prefix ends with a slash and is a string like any other', () => {
    for (const prefix of ['', 'a', 1, null, 'a\0/', '\ud800/', `${'x'.repeat(255)}/`]) {
      expect(problemsOf(() => etcdClient({ etcd, namespace: 'n', prefix } as EtcdOptions))).to.have.keys('prefix')
    }
    for (const prefix of ['/', 'ü/', 'a/b/']) {
      expect(problemsOf(() => etcdClient({ etcd, namespace: 'n', prefix }))).to.deep.equal({})
    }
  })

  it('a substrate that does not watch does not say that it can', () => {
    expect(new EtcdSubstrate({ etcd, namespace: 'n', watch: false }).watch).to.equal(undefined)
    expect(new EtcdSubstrate({ etcd, namespace: 'n' }).watch).to.be.a('function')
  })
})
