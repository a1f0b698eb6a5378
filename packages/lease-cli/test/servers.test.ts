import { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { expect } from 'chai'
import { Etcd3 } from 'etcd3'
import { systemClock, traces, type WorkTrace } from 'lease-core'
import { dynamodbClient } from 'lease-dynamodb'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { request, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  dynamodbTarget,
  freshDatabase,
  isMatrix,
  postgresTargets,
  redisTargets,
  startEtcd,
  startPostgres,
  startRedis,
  startRedisSentinel,
  until,
  type Address,
  type Etcd,
  type FreshDatabase,
  type Postgres,
  type Redis,
} from 'lease-servers'
import type { Finding } from '#src/commands/doctor.ts'
import { parseStoreUrl } from '#src/store-url.ts'
import { LeaseRun } from './lease-run.ts'
import { leaseHere } from './screen.ts'
import { besides, dynamodbUrl, etcdUrl, testServers, unique } from './stores.ts'

const SECRET = 'geheim'
const HOUR_MS = 3_600_000
const [postgres] = postgresTargets()
const [cluster] = redisTargets('cluster')
const dynamodb = dynamodbTarget()

describe('lease and the servers that a URL names', () => {
  for (const server of testServers()) {
    it(`sees what a program holds, and takes it, on ${server.name}`, async () => {
      const [url, namespace] = [await server.open(), unique()]
      const env = { LEASE_URL: url, LEASE_NAMESPACE: namespace }
      const store = await besides(url, namespace)
      const { manager } = store
      await manager.claim('job', 'bob', { minutes: 1 }, { value: 'hello' })
      const [listed] = JSON.parse((await leaseHere(['list', '--json'], env)).stdout) as Record<string, unknown>[]
      expect(listed).to.include({ lease: 'job', holder: 'bob', value: 'hello', pinned: false })
      const revoked = await leaseHere(['revoke', 'job', '--yes', '--token', String(listed?.['fencingToken'])], env)
      expect(revoked.code).to.equal(0)
      expect(await manager.find('job')).to.equal(undefined)
      await store.close()
      await server.close()
    })
  }

  it('shows them on a page of this machine alone, until it is interrupted', async () => {
    const [server] = testServers()
    const env = { LEASE_URL: (await server?.open()) ?? '', LEASE_NAMESPACE: unique() }
    const run = new LeaseRun(['console', '--write'], env)
    const url = await run.line(/^(http:\/\/127\.0\.0\.1:\d+\/)$/m)
    expect((await fetch(url)).status).to.equal(200)
    const asked = request(url, { headers: { host: 'evil.test' } }).end()
    const [answer] = (await once(asked, 'response')) as [IncomingMessage]
    expect(answer.statusCode, 'under the name of another site').to.equal(421)
    answer.resume()
    run.kill('SIGINT')
    expect(await run.code).to.equal(130)
    await server?.close()
  })

  if (cluster !== undefined) {
    it('are a Redis Cluster', async () => {
      const env = { LEASE_URL: `redis+cluster://${listOf(cluster.nodes)}`, LEASE_NAMESPACE: unique() }
      expect(await leaseHere(['list', '--json'], env)).to.include({ code: 0, stdout: '[]\n' })
    })
  }

  if (isMatrix()) {
    it('are Sentinels, which know the master', async () => {
      await using sentinel = await startRedisSentinel()
      const env = {
        LEASE_URL: `redis+sentinel://${listOf(sentinel.sentinels)}/${sentinel.name}`,
        LEASE_NAMESPACE: unique(),
      }
      expect(await leaseHere(['list', '--json'], env)).to.include({ code: 0, stdout: '[]\n' })
    })
  }

  it('end a command with 69 where nothing listens, and doctor says what to look at', async () => {
    const env = { LEASE_URL: `redis://ann:${SECRET}@127.0.0.1:1`, LEASE_NAMESPACE: 'x' }
    const listed = await leaseHere(['list'], env)
    expect(listed).to.include({ code: 69, stdout: '' })
    expect(listed.stderr).to.contain('cannot reach redis at 127.0.0.1:1').and.to.contain('nothing listens there')
    const seen = await leaseHere(['doctor'], env)
    expect(seen.code).to.equal(1)
    expect(seen.stdout).to.contain('failed  reach 127.0.0.1:1')
    for (const { stdout, stderr } of [listed, seen]) expect(stdout + stderr).to.not.contain(SECRET)
  })
})

describe('lease exec', () => {
  const [, server] = testServers()

  it('publishes its command as work under a lease, for spans', async () => {
    const works: WorkTrace[] = []
    const listen = (trace: unknown): void => void works.push(trace as WorkTrace)
    traces.work.asyncEnd.subscribe(listen)
    try {
      const env = { LEASE_URL: (await server?.open()) ?? '', LEASE_NAMESPACE: unique() }
      expect((await leaseHere(['exec', 'job', '--holder', 'bob', '--', 'true'], env)).code).to.equal(0)
    } finally {
      traces.work.asyncEnd.unsubscribe(listen)
    }
    expect(works).to.have.length(1)
    expect(works[0]).to.include({ lease: 'job', holder: 'bob' })
    expect(works[0]?.fencingToken).to.be.a('bigint')
  })
})

describe('lease doctor', () => {
  let redis: Redis

  before(async () => (redis = await startRedis({ appendonly: true, password: 'right' })))
  after(() => redis.stop())

  it('has no findings about a server that is well set up, and ends with 0', async () => {
    const { code, stdout } = await leaseHere(['doctor'], { LEASE_URL: redis.url, LEASE_NAMESPACE: unique() })
    expect(stdout).to.contain('no findings')
    expect(code).to.equal(0)
  })

  it('names a wrong password, and shows none', async () => {
    const env = { LEASE_URL: redis.url.replace('right', SECRET), LEASE_NAMESPACE: 'x' }
    const { code, stdout } = await leaseHere(['doctor', '--json'], env)
    expect(code).to.equal(1)
    const { findings } = JSON.parse(stdout) as { findings: Finding[] }
    expect(findings.at(-1)).to.include({ check: 'login', status: 'failed' })
    expect(findings.at(-1)?.hints.join()).to.contain('user or password are wrong')
    expect(stdout).to.not.contain(SECRET)
  })

  it('finds a lease that a pin alone keeps, and says how to end it', async () => {
    const namespace = unique()
    const store = await besides(redis.url, namespace)
    const { manager } = store
    await manager.pin('job', 'ops')
    await manager.claim('job', 'dead', 1)
    await manager.pin('next', 'ops')
    await until(
      'the lease is overdue',
      async () => Number((await manager.find('job'))?.expiry.diffNow().toMillis()) < 0,
    )
    const { code, stdout } = await leaseHere(['doctor'], { LEASE_URL: redis.url, LEASE_NAMESPACE: namespace })
    expect(code).to.equal(1)
    expect(stdout).to.contain('job is kept by the pin of ops alone: dead has not renewed it')
    expect(stdout).to.contain('lease unpin job ENTITY, or lease revoke job')
    expect(stdout).to.contain('next is pinned by ops, and nobody holds it')
    await store.close()
  })
})

describe('a login that the server refuses', () => {
  /**
   * Not the one of all tests: without a password, pg leaves its connection open, and as long as the server waits for the password, a minute,
   * nobody can create or drop a database.
   */
  let own: Postgres
  let redis: Redis
  let etcd: Etcd

  before(async () => {
    own = await startPostgres()
    redis = await startRedis({ appendonly: true, password: 'right' })
    etcd = await startEtcd()
    const driver = new Etcd3({ hosts: etcd.endpoints as string[] })
    for (const name of ['root', 'app']) {
      await driver.role(name).create()
      if (name === 'app')
        await driver.role(name).grant({ permission: 'Readwrite', range: driver.range({ prefix: 'lease/' }) })
      await driver.user(name).create('right')
      await driver.user(name).addRole(name)
    }
    await driver.auth.authEnable()
    driver.close()
  })
  after(async () => {
    await own.stop()
    await redis.stop()
    await etcd.stop()
  })

  const wrong = 'user or password are wrong'
  const none = 'the URL has none or no password'
  for (const [title, url, advice] of [
    ['postgres, a wrong password', () => withPassword(postgres?.passwordUrl, SECRET), wrong],
    ['postgres, no password', () => withPassword(own.passwordUrl, ''), none],
    ['redis, a wrong password', () => redis.url.replace('right', SECRET), wrong],
    ['redis, no password', () => `redis://127.0.0.1:${redis.port}`, none],
    ['etcd, a wrong password', () => etcdWith(`app:${SECRET}`), wrong],
    ['etcd, no password', () => etcdWith(undefined), none],
  ] as const) {
    it(`is called that, with 69, and is not tried again: ${title}`, async function () {
      const address = url()
      if (address === undefined) {
        this.skip()
        return
      }
      const env = { LEASE_URL: address, LEASE_NAMESPACE: unique() }
      const { code, stderr } = await leaseHere(['list', '--retry'], env)
      expect(stderr).to.contain('the server refused the login: ').and.to.contain(advice)
      expect(stderr).to.not.contain('cannot reach')
      expect(stderr).to.not.contain(SECRET)
      expect(code).to.equal(69)
    })
  }

  it('is none of a user of etcd who may use the prefix of the leases alone', async () => {
    const env = { LEASE_URL: etcdWith('app:right'), LEASE_NAMESPACE: unique() }
    expect(await leaseHere(['list'], env)).to.include({ code: 0, stderr: 'no lease is held\n' })
  })

  function etcdWith(login: string | undefined): string {
    return etcdUrl(etcd.endpoints).replace('//', `//${login === undefined ? '' : `${login}@`}`)
  }
})

function withPassword(url: string | undefined, password: string): string | undefined {
  if (url === undefined) return undefined
  const changed = new URL(url)
  changed.password = password
  return changed.href
}

if (postgres !== undefined) {
  describe('lease and a database of PostgreSQL', () => {
    let database: FreshDatabase
    let env: Record<string, string>

    before(async () => {
      database = await freshDatabase(postgres)
      env = { LEASE_URL: database.url, LEASE_NAMESPACE: unique() }
    })
    after(() => database.drop())

    it('without tables: 69, doctor says lease migrate, and that makes them', async () => {
      const listed = await leaseHere(['list'], env)
      expect(listed.code).to.equal(69)
      expect(listed.stderr).to.contain('lease migrate makes missing tables')
      const seen = await leaseHere(['doctor'], env)
      expect(seen.code).to.equal(1)
      expect(seen.stdout).to.contain('tables are missing').and.to.contain('lease migrate makes what is missing')
      expect((await leaseHere(['migrate', '--dry-run'], env)).stdout).to.contain('CREATE TABLE')
      expect((await leaseHere(['list'], env)).code).to.equal(69)
      expect(
        (await leaseHere(['migrate'], { LEASE_URL: 'postgres://127.0.0.1:1/x', LEASE_MIGRATE_URL: database.url })).code,
      ).to.equal(0)
      expect(await leaseHere(['list'], env)).to.include({ code: 0, stderr: 'no lease is held\n' })
      const after = (await leaseHere(['doctor'], env)).stdout
      expect(after).to.contain('ok      tables and rights').and.to.contain('ok      vacant leases: 0 rows')
    })

    it('removes the rows of leases that were vacant for long', async () => {
      expect((await leaseHere(['collect', '--retention', '1h'], env)).stdout).to.equal(
        'removed 0 rows of leases that were vacant for longer\n',
      )
    })

    it('that is not there: what to do, and no password', async () => {
      const url = new URL(postgres.url)
      url.pathname = '/no_such_database'
      url.password = SECRET
      const { code, stderr } = await leaseHere(['list'], { ...env, LEASE_URL: url.href })
      expect(code).to.equal(69)
      expect(stderr).to.contain('create the database').and.to.not.contain(SECRET)
    })
  })
}

describe('lease and a table of DynamoDB', () => {
  let env: Record<string, string>

  before(() => (env = { LEASE_URL: dynamodbUrl(dynamodb), LEASE_NAMESPACE: unique() }))

  it('that is not there: 69, doctor says lease migrate, and that makes it', async () => {
    const listed = await leaseHere(['list'], env)
    expect(listed.code).to.equal(69)
    expect(listed.stderr).to.contain('there is no such table').and.to.contain('lease migrate makes missing tables')
    const seen = await leaseHere(['doctor'], env)
    expect(seen.code).to.equal(1)
    expect(seen.stdout).to.contain('ok      reach 127.0.0.1').and.to.contain('ok      login')
    expect(seen.stdout).to.contain('failed  tables and rights').and.to.contain('lease migrate makes a missing table')
    expect((await leaseHere(['plans'], env)).stdout).to.contain('AWS::DynamoDB::Table')
    expect((await leaseHere(['list'], env)).code).to.equal(69)
    for (const _ of ['first', 'again']) {
      expect((await leaseHere(['migrate'], env)).stdout).to.contain('the table is ready (table cli-')
    }
    expect(await leaseHere(['list'], env)).to.include({ code: 0, stderr: 'no lease is held\n' })
    expect(await leaseHere(['doctor'], env)).to.include({ code: 0 })
    expect((await leaseHere(['collect'], env)).stderr).to.contain('dynamodb deletes by itself')
  })

  it('runs a job, shows it, pins it, and waits for its end', async () => {
    const store = await besides(env['LEASE_URL'] ?? '', env['LEASE_NAMESPACE'] ?? '')
    const line = '[ "$LEASE_FENCING_TOKEN" -gt 0 ] && [ -z "$LEASE_URL" ] && exit 3'
    expect((await leaseHere(['exec', 'job', '--', 'sh', '-c', line], env)).code).to.equal(3)
    await store.manager.claim('job', 'bob', { minutes: 1 })
    expect((await leaseHere(['show', 'job'], env)).stdout).to.contain('bob')
    expect((await leaseHere(['pin', 'job', 'ops'], env)).code).to.equal(0)
    expect((await leaseHere(['pins'], env)).stdout).to.match(/job.*ops/)
    expect((await leaseHere(['unpin', 'job', 'ops'], env)).code).to.equal(0)
    expect((await leaseHere(['watch', 'job', '--until', 'held'], env)).stdout).to.contain('bob')
    const waiting = leaseHere(['wait', 'job'], env)
    await store.manager.release('job', 'bob')
    expect((await waiting).code).to.equal(0)
    await store.close()
  })

  it('has no lease that a command takes at once from a dead holder, unless ?maxSkew= lets it', async () => {
    const { path: table } = parseStoreUrl(env['LEASE_URL'] ?? '', 'the test')
    const driver = new DynamoDBClient({ endpoint: dynamodb.endpoint, region: 'us-east-1' })
    const clock = { ...systemClock, now: () => systemClock.now() - 2 * HOUR_MS }
    const client = dynamodbClient({ client: driver, table, namespace: env['LEASE_NAMESPACE'] ?? '', clock })
    await client.claimLease('left', { holder: 'dead', duration: HOUR_MS }) // an hour ago, and nobody looked since
    await client.close()
    driver.destroy()
    const folder = mkdtempSync(join(tmpdir(), 'lease-cli-'))
    const acquire = ['acquire', 'left', '--duration', '1m', '--token-file', join(folder, 'left')]
    expect((await leaseHere(acquire, env)).code).to.equal(75)
    const unclear = await leaseHere(acquire, { ...env, LEASE_URL: `${env['LEASE_URL']}&maxSkew=100` })
    expect(unclear.code).to.equal(64)
    expect(unclear.stderr).to.contain('?maxSkew= of the URL must have a unit')
    const trusting = { ...env, LEASE_URL: `${env['LEASE_URL']}&maxSkew=10s` }
    expect((await leaseHere(acquire, trusting)).code).to.equal(0)
    rmSync(folder, { recursive: true })
  })

  it('is asked with the credentials that the SDK finds; where there are none, the message says how to give them', async () => {
    const before = Object.entries(process.env).filter(([name]) => name.startsWith('AWS_'))
    const only = (own: Readonly<Record<string, string | undefined>>): void => {
      for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name]
      Object.assign(process.env, own)
    }
    const nothing = {
      AWS_EC2_METADATA_DISABLED: 'true',
      AWS_CONFIG_FILE: '/nonexistent',
      AWS_SHARED_CREDENTIALS_FILE: '/nonexistent',
      AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true',
    }
    try {
      only(nothing)
      const { code, stderr } = await leaseHere(['list'], env)
      expect(code).to.equal(69)
      expect(stderr).to.contain('Could not load credentials').and.to.contain('give AWS_PROFILE')
      only({ ...nothing, AWS_ACCESS_KEY_ID: 'test', AWS_SECRET_ACCESS_KEY: SECRET })
      for (const command of ['list', 'doctor', 'migrate']) {
        const printed = await leaseHere([command, '--verbose'], env)
        expect(printed.stdout + printed.stderr).to.not.contain(SECRET)
      }
    } finally {
      only(Object.fromEntries(before))
    }
  })
})

function listOf(addresses: readonly Address[]): string {
  return addresses.map(({ host, port }) => `${host}:${port}`).join(',')
}
