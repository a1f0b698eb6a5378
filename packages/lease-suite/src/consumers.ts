/**
 * The packages as a stranger has them: packed, installed by npm into an empty project beside their drivers, and used in each of the ways in
 * which projects use packages.
 */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { packArguments, publishedPackages } from './checks.ts'
import { nodeOf } from './matrix.ts'
import { root } from './test-files.ts'

/** One way of use: what it is, and what of it failed. */
export interface ConsumerResult {
  readonly way: string
  /** undefined: it works. */
  readonly wrong: string | undefined
}

const run = promisify(execFile)

/** What the packages are used with; exact, so that a run shows what these releases do. */
const DRIVERS: Readonly<Record<string, string>> = {
  '@aws-sdk/client-dynamodb': '^3.1169.0',
  '@nestjs/common': '^12.5.1',
  '@nestjs/core': '^12.5.1',
  '@nestjs/schedule': '^12.0.2',
  '@opentelemetry/api': '~1.9.1',
  etcd3: '^1.1.2',
  ioredis: '^6.0.0',
  pg: '^8.23.1',
  postgres: '^3.4.9',
  redis: '^6.3.1',
  'reflect-metadata': '^0.2.2',
  rxjs: '^7.8.2',
  zod: '^4.6.7',
}
/** What projects are built and tested with. */
const TOOLS: Readonly<Record<string, string>> = {
  '@types/node': '^20.19.0',
  '@types/pg': '^8.23.1',
  esbuild: '^0.25.0',
  jest: '^30.0.0',
  typescript: '~5.9.3',
  vitest: '^3.2.0',
}
/** npm has their programs; a platform for which it has none is left out. */
const RUNTIMES: Readonly<Record<string, string>> = { bun: '^1.2.0', deno: '^2.4.0' }

/** A program that claims a lease in memory, and prints `granted` once every package has been imported. */
function program(names: readonly string[], style: 'import' | 'require'): string {
  const lines = names.map((name, index) =>
    style === 'import' ? `import * as p${index} from '${name}'` : `const p${index} = require('${name}')`,
  )
  const core = names.indexOf('lease-core')
  return `${lines.join('\n')}
const empty = [${names.map((name, index) => `['${name}', p${index}]`).join(', ')}].filter(([, one]) => Object.keys(one).length === 0)
if (empty.length > 0) throw new Error('without exports: ' + empty.map(([name]) => name).join())
const claimed = async () => {
  const client = p${core}.memoryClient()
  const manager = new p${core}.Manager({ client })
  const token = await manager.claim('l', 'holder', { seconds: 30 })
  await token.check()
  await manager.stop()
  await client.close()
  return 'granted'
}
`
}

/** Types that a program relies on: each of these lines must be right under \`strict\`. */
const TYPED = `import { Manager, memoryClient, type Token } from 'lease-core'
import { FakeLeases } from 'lease-core/testing'
import { migrate, postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import { etcdClient } from 'lease-etcd'
import { withLease } from 'lease-recipes'
import { Pool } from 'pg'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { Etcd3 } from 'etcd3'
import postgres from 'postgres'

export async function typed(url: string): Promise<bigint> {
  const pool = new Pool({ connectionString: url })
  await migrate(pool)
  const clients = [
    memoryClient(),
    postgresClient({ pool, namespace: 'n' }),
    postgresClient({ pool: () => postgres(url, { max: 1 }), namespace: 'n' }),
    redisClient({ redis: new Redis(url), namespace: 'n' }),
    redisClient({ redis: createClient({ url }), namespace: 'n' }),
    etcdClient({ etcd: new Etcd3({ hosts: url }), namespace: 'n' }),
  ]
  const manager = new Manager({ client: clients[0]! })
  const token: Token = await manager.claim('l', 'h', { seconds: 30 })
  // @ts-expect-error a lease needs a duration
  await manager.claim('l', 'h')
  const size: number = await withLease(manager, 'm', { duration: { seconds: 30 } }, async ({ signal }) => Number(signal.aborted))
  return (token.fencingToken ?? 0n) + BigInt(size) + BigInt(FakeLeases.length)
}
`

/** @throws the packages cannot be packed or installed */
export async function tryPackages(report: (result: ConsumerResult) => void = () => {}): Promise<ConsumerResult[]> {
  const names = publishedPackages()
  const project = await mkdtemp(join(tmpdir(), 'lease-consumer-'))
  const results: ConsumerResult[] = []
  try {
    await installPackages(project, names, { tools: TOOLS, optional: RUNTIMES })
    for (const [way, use] of Object.entries(waysOf(project, names))) {
      const wrong = await use().then(
        () => undefined,
        (error: unknown) => saidBy(error),
      )
      const result = { way, wrong }
      results.push(result)
      report(result)
    }
  } finally {
    await rm(project, { recursive: true, force: true })
  }
  return results
}

/**
 * Packs these packages, and has npm install them in this folder beside their drivers.
 *
 * @throws the packages cannot be packed or installed
 */
export async function installPackages(
  project: string,
  names: readonly string[],
  { tools = {}, optional = {} }: { readonly tools?: typeof TOOLS; readonly optional?: typeof RUNTIMES } = {},
): Promise<void> {
  const tarballs = join(project, 'tarballs')
  await mkdir(tarballs)
  const PATH = `${join(root, 'node_modules/.bin')}${delimiter}${process.env['PATH'] ?? ''}`
  await run('npx', ['-y', 'pnpm@10', ...packArguments(names, tarballs)], { cwd: root, env: { ...process.env, PATH } })
  const packed = await readdir(tarballs)
  const own = Object.fromEntries(
    names.map((name) => [name, `file:tarballs/${packed.find((file) => file.startsWith(`${name}-0`))}`]),
  )
  const dependencies = { ...own, ...DRIVERS, ...tools }
  const manifest = { private: true, type: 'module', dependencies, optionalDependencies: optional }
  await writeFile(join(project, 'package.json'), JSON.stringify(manifest, undefined, 2))
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline']
  await run('npm', ['install', ...options], { cwd: project, maxBuffer: 64 * 1024 * 1024 })
}

function waysOf(project: string, names: readonly string[]): Readonly<Record<string, () => Promise<void>>> {
  const file = async (path: string, text: string): Promise<string> => {
    await mkdir(dirname(join(project, path)), { recursive: true })
    await writeFile(join(project, path), text)
    return path
  }
  const node = async (
    path: string,
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): Promise<string> => {
    const { stdout, stderr } = await run(path, [...args], {
      cwd: project,
      env: { ...process.env, ...env },
      timeout: 300_000,
    })
    return stdout + stderr
  }
  const granted = async (path: string, args: readonly string[]): Promise<void> => {
    const said = await node(path, args)
    if (!said.includes('granted')) throw new Error(`no lease was granted: ${said}`)
  }
  const module = (): Promise<string> => file('esm.mjs', `${program(names, 'import')}console.log(await claimed())\n`)
  const tool = (path: string): string => join(project, 'node_modules', path)
  const types = async (folder: string, options: object, text: string = TYPED): Promise<void> => {
    await file(`${folder}/typed.ts`, text)
    const compilerOptions = { target: 'es2022', strict: true, noEmit: true, types: ['node'], ...options }
    await file(`${folder}/tsconfig.json`, JSON.stringify({ compilerOptions, files: ['typed.ts'] }))
    await node(process.execPath, [tool('typescript/bin/tsc'), '-p', folder])
  }
  const DISPOSABLE = ['es2023', 'esnext.disposable']
  const claims = (test: string): string => `${program(names, 'import')}${test}\n`

  return {
    ESM: async () => granted(process.execPath, [await module()]),
    'CommonJS, require on Node 22': async () => {
      const text = `${program(names, 'require')}claimed().then(console.log)\n`
      await granted(await nodeOf('22'), [await file('cjs.cjs', text)])
    },
    'TypeScript, NodeNext, strict, without skipLibCheck': () =>
      types('nodenext', { module: 'nodenext', lib: DISPOSABLE }),
    'TypeScript, bundler, strict, without skipLibCheck': () =>
      types('bundler', { module: 'esnext', moduleResolution: 'bundler', lib: DISPOSABLE }),
    esbuild: async () => {
      const entry = await module()
      const args = ['--bundle', '--platform=node', '--format=esm', '--outfile=bundle.mjs', '--external:pg-native']
      const banner = `--banner:js=import{createRequire}from'node:module';const require=createRequire(import.meta.url);`
      const optional = ['@nestjs/microservices', '@nestjs/websockets', 'class-transformer', 'class-validator'].map(
        (name) => `--external:${name}*`,
      )
      await node(process.execPath, [tool('esbuild/bin/esbuild'), entry, ...args, banner, ...optional])
      await granted(process.execPath, ['bundle.mjs'])
    },
    Jest: async () => {
      await file('jest/lease.test.mjs', claims(`test('claims', async () => expect(await claimed()).toBe('granted'))`))
      await file('jest/package.json', JSON.stringify({ type: 'module', jest: { testMatch: ['**/*.test.mjs'] } }))
      const args = ['--experimental-vm-modules', tool('jest/bin/jest.js'), '--rootDir', 'jest']
      await node(process.execPath, args, { NODE_NO_WARNINGS: '1' })
    },
    Vitest: async () => {
      const text = `import { expect, test } from 'vitest'\n${claims(`test('claims', async () => expect(await claimed()).toBe('granted'))`)}`
      await file('vitest/lease.test.mjs', text)
      await node(process.execPath, [tool('vitest/vitest.mjs'), 'run', '--root', 'vitest'], { CI: '1' })
    },
    Bun: async () => granted(await runtime(project, 'bun', /^bun-linux-x64$|^bun-/, '@oven'), [await module()]),
    Deno: async () => granted(await runtime(project, 'deno', /./, '@deno'), ['run', '-A', await module()]),
  }
}

/** The program that npm has for this platform. @throws there is none */
async function runtime(project: string, name: string, folder: RegExp, scope: string): Promise<string> {
  const home = join(project, 'node_modules', scope)
  const found = (await readdir(home).catch(() => [])).filter((one) => folder.test(one))
  for (const one of found) {
    for (const path of [join(home, one, 'bin', name), join(home, one, name)]) {
      const works = await run(path, ['--version']).then(
        () => true,
        () => false,
      )
      if (works) return path
    }
  }
  throw new Error(`npm has no ${name} for this platform`)
}

/** What a program said before it failed, its end. */
function saidBy(error: unknown): string {
  const { stdout = '', stderr = '', message = '' } = error as { stdout?: string; stderr?: string; message?: string }
  return (`${stdout}${stderr}`.trim() || message).slice(-2_000)
}
