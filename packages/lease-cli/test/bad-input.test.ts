import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import type { Io } from '#src/io.ts'
import { SettingsReader, type CommonFlags } from '#src/settings.ts'
import { parseStoreUrl } from '#src/store-url.ts'
import { Running, World } from './screen.ts'

const SECRET = 'geheim'

describe('bad input of lease', () => {
  let folder: string

  beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'lease-cli-'))))
  afterEach(() => rmSync(folder, { recursive: true }))

  const world = new World()
  for (const [args, words] of [
    [['lsit'], `unknown command 'lsit'`],
    [['list', '--sorted'], `unknown option '--sorted'`],
    [['list', '--sort', 'age'], '--sort must be one of'],
    [['list', '--limit', '0'], '--limit must be a whole number from 1'],
    [['list', '--expiring', '30'], '--expiring must have a unit (got 30)'],
    [['list', '--', 'x'], 'runs no command'],
    [['show'], `missing required argument 'name'`],
    [['show', 'a b'], 'must not contain white space'],
    [['watch', 'a', '--until', 'gone'], '--until must be held or free'],
    [['revoke'], 'name one lease'],
    [['revoke', 'a', '--token', 'abc'], '--token must be a fencing token'],
    [['revoke', '--all-of', 'bob', '--token', '1'], '--token and --holder are of one lease'],
    [['exec', 'a'], 'no command'],
    [['exec', '--', 'true'], 'no lease is named'],
    [['exec', 'a', 'b', '--', 'true'], 'several leases are named'],
    [['exec', 'a', '--shared', '--permits', '2', '--', 'true'], 'exclude each other'],
    [['exec', 'a', '-c', 'x', '--', 'true'], 'exclude each other'],
    [['exec', 'a', '--if-busy', 'skip', '-E', '9', '--', 'true'], 'skip ends with 0'],
    [['exec', 'a', '--permits', '0', '--', 'true'], '--permits must be'],
    [['exec', 'a', '--permits', '2', '--value', 'x', '--', 'true'], 'are not for --shared'],
    [['exec', 'a', '--if-busy', 'wait', '--', 'true'], '--if-busy must be skip or fail'],
    [['exec', 'a', '-E', '256', '--', 'true'], '--busy-exit-code must be'],
    [['exec', 'a', '--duration', '30', '--', 'true'], '--duration must have a unit (got 30)'],
    [['exec', 'a', '--duration', '100ms', '--', 'true'], '--duration must be at least 1s'],
    [['exec', 'a', '--kill-after', '20s', '--', 'true'], '--kill-after must be at most half of --duration'],
    [['exec', 'a', '--signal', 'FOO', '--', 'true'], '--signal must be the name of a signal'],
    [['console', '--write', '--host', '0.0.0.0'], '--write is for this machine only'],
    [['console', '--port', 'http'], '--port must be a number'],
    [['completion', 'tcsh'], 'there is no completion for tcsh'],
    [['collect', '--retention', '5'], '--retention must have a unit'],
    [['list', '--color', 'red'], 'Allowed choices are auto, always, never'],
  ] as const) {
    it(`lease ${args.join(' ')} ends with 64 and says what is wrong`, async () => {
      const { code, stdout, stderr } = await world.lease(args)
      expect(stderr).to.contain(words)
      expect({ code, stdout }).to.deep.equal({ code: 64, stdout: '' })
    })
  }

  describe('settings', () => {
    const read = (flags: CommonFlags, env: Record<string, string>, file?: string) => {
      if (file !== undefined) writeFileSync(join(folder, 'lease.config.json'), file)
      return new SettingsReader(ioOf(env, folder), flags).read()
    }

    it('come from the flag, then from the environment, then from the file, each by itself', async () => {
      const file = '{"url": "redis://file", "namespace": "file", "schema": "file", "prefix": "file"}'
      const settings = await read({ url: 'redis://flag' }, { LEASE_URL: 'redis://env', LEASE_NAMESPACE: 'env' }, file)
      expect(settings).to.include({
        url: 'redis://flag',
        urlFrom: '--url',
        namespace: 'env',
        schema: 'file',
        prefix: 'file',
      })
      expect(await read({}, { LEASE_URL: 'redis://env' })).to.include({
        url: 'redis://env',
        urlFrom: 'LEASE_URL',
        namespace: 'file',
      })
      expect(await read({}, {})).to.include({ url: 'redis://file' })
    })

    it('read a URL from a file, so that it is in no list of processes', async () => {
      writeFileSync(join(folder, 'url'), `redis://:${SECRET}@host\n`)
      expect((await read({ urlFile: 'url' }, {})).url).to.equal(`redis://:${SECRET}@host`)
      expect((await read({}, { LEASE_URL_FILE: join(folder, 'url') })).url).to.equal(`redis://:${SECRET}@host`)
      expect((await read({}, {}, '{"urlFile": "url"}')).url).to.equal(`redis://:${SECRET}@host`)
    })

    it('of a JavaScript file are its default export', async () => {
      writeFileSync(join(folder, 'lease.config.mjs'), `export default { url: 'etcd://' + 'host', readOnly: true }`)
      const reader = new SettingsReader(ioOf({}, folder), {})
      expect((await reader.read()).url).to.equal('etcd://host')
      expect(await reader.readOnly()).to.contain('says readOnly')
    })

    it('are not guessed: without a URL there is no store', async () => {
      const message = await messageOf(read({}, {}))
      expect(message).to.contain('no store is named').and.to.contain('LEASE_URL=')
    })

    for (const [title, flags, file] of [
      ['a file that does not parse', {}, `{"url": "redis://:${SECRET}@host",\n "namespace" }`],
      ['a file that is no object', {}, '[]'],
      ['an unknown field', {}, `{"password": "${SECRET}"}`],
      ['a field of another kind', {}, '{"url": 5}'],
      ['a file that is not there', { config: 'other.json' }, undefined],
      ['a URL file that is not there', { urlFile: 'nothing' }, undefined],
      ['two URLs', { url: `redis://:${SECRET}@host`, urlFile: 'url' }, undefined],
    ] as const) {
      it(`${title} ends with 64, and shows no password`, async () => {
        const message = await messageOf(read(flags, {}, file))
        expect(message).to.match(/^64 /).and.to.not.contain(SECRET)
      })
    }
  })

  describe('URLs', () => {
    it('name the servers of each kind of store', () => {
      const of = (url: string) => {
        const { kind, mode, tls, hosts, username, password, path } = parseStoreUrl(url, 'LEASE_URL')
        return { kind, mode, tls, hosts: hosts.map(({ host, port }) => `${host} ${port}`), username, password, path }
      }
      const none = { username: undefined, password: undefined, path: '' }
      expect(of('redis://host')).to.deep.equal({
        kind: 'redis',
        mode: 'single',
        tls: false,
        hosts: ['host 6379'],
        ...none,
      })
      expect(of('rediss://ann:p%40ss@host:7/2')).to.deep.equal({
        kind: 'redis',
        mode: 'single',
        tls: true,
        hosts: ['host 7'],
        username: 'ann',
        password: 'p@ss',
        path: '2',
      })
      expect(of('redis+cluster://a,b:7001'))
        .to.include({ mode: 'cluster' })
        .and.to.have.deep.property('hosts', ['a 6379', 'b 7001'])
      expect(of('rediss+sentinel://a,[::1]:7/main/3'))
        .to.include({ mode: 'sentinel', tls: true, path: 'main/3' })
        .and.to.have.deep.property('hosts', ['a 26379', '::1 7'])
      expect(of('etcds://a:1,b:2'))
        .to.include({ kind: 'etcd', tls: true })
        .and.to.have.deep.property('hosts', ['a 1', 'b 2'])
      expect(of('postgresql:///db?host=/var/run/postgresql'))
        .to.include({ kind: 'postgres', path: 'db' })
        .and.to.have.deep.property('hosts', [])
      expect(of('dynamodb://eu-west-1/leases'))
        .to.include({ kind: 'dynamodb', tls: true, path: 'leases' })
        .and.to.have.deep.property('hosts', [])
      expect(of('dynamodb://eu-west-1/leases?endpoint=http://[::1]:8000'))
        .to.include({ tls: false })
        .and.to.have.deep.property('hosts', ['::1 8000'])
      expect(parseStoreUrl('dynamodb://eu-west-1/leases', 'LEASE_URL')).to.include({
        region: 'eu-west-1',
        address: 'table leases of dynamodb at eu-west-1',
      })
      const arn = 'arn:aws:dynamodb:eu-west-1:123456789012:table/leases'
      expect(parseStoreUrl(`dynamodb:///${arn}`, 'LEASE_URL')).to.include({ region: undefined, path: arn })
      expect(parseStoreUrl(`postgres://ann:${SECRET}@host/db`, 'LEASE_URL').address).to.equal('postgres at host:5432')
    })

    for (const url of [
      `ann:${SECRET}@host`,
      `mysql://ann:${SECRET}@host`,
      `redis://ann:${SECRET}@host:99999`,
      `redis://ann:${SECRET}@a,b`,
      `redis://ann:${SECRET}@host?tls=1`,
      `redis+sentinel://ann:${SECRET}@host`,
      `redis://ann:${SECRET}%zz@host`,
      `etcd://ann:${SECRET}@`,
      `etcd://ann:${SECRET}/x@host`,
      `dynamodb://ann:${SECRET}@eu-west-1/leases`,
      'dynamodb://eu-west-1',
      'dynamodb://127.0.0.1:8000/leases',
      `dynamodb://eu-west-1/leases?endpoint=http://ann:${SECRET}@host`,
      'dynamodb://eu-west-1/leases?endpoint=host:8000',
      'dynamodb://eu-west-1/leases?profile=x',
    ]) {
      it(`${url.replace(SECRET, '…')} is refused, and shown to nobody`, async () => {
        const message = await messageOf((async () => parseStoreUrl(url, 'LEASE_URL'))())
        expect(message)
          .to.match(/^64 .*LEASE_URL|^64 /)
          .and.to.not.contain(SECRET)
      })
    }
  })
})

function ioOf(env: Record<string, string>, cwd: string): Io {
  const { io } = new Running(new World().clock, { cwd })
  return { ...io, env }
}

async function messageOf(failing: Promise<unknown>): Promise<string> {
  const outcome: unknown = await failing.catch((error: unknown) => error)
  const {
    exitCode,
    message = '',
    hints = [],
  } = Object(outcome) as { exitCode?: number; message?: string; hints?: string[] }
  if (exitCode === undefined) throw new Error('it was accepted')
  return [`${exitCode} ${message}`, ...hints].join('\n')
}
