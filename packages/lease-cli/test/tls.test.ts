import { expect } from 'chai'
import { join } from 'node:path'
import { etcdTargets, postgresTargets, startAuthority, startRedis, startTlsFront } from 'lease-servers'
import type { Authority, Certificate, Redis, TlsFront } from 'lease-servers'
import type { Finding } from '#src/commands/doctor.ts'
import { leaseHere } from './screen.ts'
import { unique } from './stores.ts'

const [postgres] = postgresTargets()
const [etcd] = etcdTargets(1)

describe('lease over TLS', () => {
  let authority: Authority
  let sound: Certificate
  let client: Certificate
  let redis: Redis

  before(async () => {
    authority = await startAuthority()
    sound = await authority.sign(['DNS:localhost', 'IP:127.0.0.1'], 30)
    client = await authority.sign(['DNS:client'])
    redis = await startRedis({ appendonly: true })
  })
  after(async () => {
    await redis.stop()
    await authority[Symbol.asyncDispose]()
  })

  const stores = [
    {
      name: 'postgres',
      protocol: 'postgres' as const,
      port: () => Number(new URL(postgres?.url ?? '').port),
      url: (port: number, { ca, cert }: Files) => {
        const { username, password, pathname } = new URL(postgres?.url ?? '')
        const files = `${ca === undefined ? '' : `&sslrootcert=${ca}`}${cert === undefined ? '' : `&sslcert=${cert.cert}&sslkey=${cert.key}`}`
        return `postgres://${username}:${password}@localhost:${port}${pathname}?sslmode=verify-full${files}`
      },
    },
    { name: 'redis', protocol: undefined, port: () => redis.port, url: urlOf('rediss') },
    {
      name: 'etcd',
      protocol: 'http2' as const,
      port: () => Number(new URL(etcd?.endpoints[0] ?? '').port),
      url: urlOf('etcds'),
    },
  ]

  for (const { name, protocol, port, url } of stores) {
    describe(`with ${name}`, () => {
      async function front(cert: Certificate, clientCa?: string): Promise<TlsFront> {
        return startTlsFront({ to: port(), ...cert, ...(protocol && { protocol }), ...(clientCa && { clientCa }) })
      }
      const env = (server: TlsFront, files: Files): Record<string, string> => ({
        LEASE_URL: url(server.port, files),
        LEASE_NAMESPACE: unique(),
      })

      async function findings(given: Record<string, string>): Promise<Record<string, Finding>> {
        const { findings: all } = JSON.parse((await leaseHere(['doctor', '--json'], given)).stdout) as {
          findings: Finding[]
        }
        return Object.fromEntries(all.map((one) => [one.check.split(' ')[0] ?? '', one]))
      }

      it('works where the authority is named, and doctor says what the certificate is', async () => {
        await using server = await front(sound)
        const { tls, login } = await findings(env(server, { ca: authority.ca }))
        expect(tls?.message).to.match(
          /^TLSv1\.\d, a certificate for DNS:localhost.*, signed by lease tests, valid until 20/,
        )
        expect(tls).to.include({ status: 'ok' })
        expect(login).to.include({ status: 'ok' })
      })

      for (const [what, given, advice] of [
        ['an unknown authority', {}, 'name the authority'],
        ['a certificate that has expired', { days: -1 }, 'has expired: renew it'],
        ['a certificate for another host', { names: ['DNS:elsewhere.test'] }, 'is for other hosts'],
      ] as const) {
        it(`says what to do about ${what}`, async () => {
          const { names, days } = { names: ['DNS:localhost'], days: 30, ...given }
          await using server = await front(await authority.sign(names, days))
          const files = what === 'an unknown authority' ? {} : { ca: authority.ca }
          const { code, stderr } = await leaseHere(['list'], env(server, files))
          expect(stderr).to.contain(advice)
          expect(code).to.equal(69)
          const { tls, login } = await findings(env(server, files))
          expect(tls).to.include({ status: 'failed' })
          expect(tls?.hints.join(), tls?.message).to.contain(advice)
          expect(login).to.include({ status: 'failed' })
        })
      }

      it('shows its own certificate where the server wants one', async () => {
        await using server = await front(sound, authority.ca)
        const { login } = await findings(env(server, { ca: authority.ca, cert: client }))
        expect(login).to.include({ status: 'ok' })
        const without = await findings(env(server, { ca: authority.ca }))
        expect(without['login']).to.include({ status: 'failed' })
        expect(without['login']?.hints.join(), without['login']?.message).to.contain(
          'wants a certificate of its clients',
        )
      })
    })
  }

  for (const [mode, path] of [
    ['cluster', ''],
    ['sentinel', '/lease'],
  ] as const) {
    it(`says what to do about a certificate in a ${mode}, where the driver keeps it to itself`, async () => {
      await using server = await startTlsFront({ to: redis.port, ...sound })
      const LEASE_URL = `rediss+${mode}://localhost:${server.port}${path}`
      const { code, stderr } = await leaseHere(['list'], { LEASE_URL, LEASE_NAMESPACE: unique() })
      expect(stderr).to.contain('name the authority')
      expect(code).to.equal(69)
    })
  }

  it('refuses files that nobody would read, or that cannot be read, with 64', async () => {
    const missing = join(authority.ca, 'missing')
    for (const [url, message] of [
      [`redis://localhost?ca=${authority.ca}`, 'asks for no TLS'],
      [`etcd://localhost?cert=${client.cert}&key=${client.key}`, 'asks for no TLS'],
      [`rediss://localhost?cert=${client.cert}`, 'needs both'],
      [`etcds://localhost?ca=${missing}`, 'the file of ?ca= cannot be read'],
      [`postgres://localhost/x?sslmode=verify-full&sslrootcert=${missing}`, 'cannot be read'],
    ] as const) {
      const { code, stderr } = await leaseHere(['list'], { LEASE_URL: url, LEASE_NAMESPACE: 'x' })
      expect(stderr).to.contain(message)
      expect(code).to.equal(64)
    }
  })
})

interface Files {
  readonly ca?: string
  readonly cert?: Certificate
}

function urlOf(scheme: string): (port: number, files: Files) => string {
  return (port, { ca, cert }) => {
    const files = { ca, cert: cert?.cert, key: cert?.key }
    const given = Object.entries(files).flatMap(([name, file]) => (file === undefined ? [] : [`${name}=${file}`]))
    return `${scheme}://localhost:${port}?${given.join('&')}`
  }
}
