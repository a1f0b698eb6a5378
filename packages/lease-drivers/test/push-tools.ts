/**
 * `drizzle-kit push` and `prisma db push`, the commands themselves, as an application runs them without a terminal. They are
 * installed in a folder of their own, once: they are large, and no package of this workspace needs them.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { npmFolder } from 'lease-servers'

const execute = promisify(execFile)

/**
 * Nothing is to be read: anyone who asks for a word gets none.
 *
 * @param done what it prints when it has done its work, of a command that does not end by itself
 */
async function run(
  file: string,
  args: readonly string[],
  { done, ...options }: { readonly cwd: string; readonly env?: NodeJS.ProcessEnv; readonly done?: string },
): Promise<string> {
  const running = execute(file, args, options)
  const { child } = running
  child.stdin?.end()
  let printed = ''
  child.stdout?.on('data', (text) => {
    printed += String(text)
    if (done !== undefined && printed.includes(done)) child.kill('SIGKILL')
  })
  try {
    const { stdout, stderr } = await running
    return stdout + stderr
  } catch (error) {
    if (done !== undefined && printed.includes(done)) return printed
    throw error
  }
}

const dependencies = {
  '@prisma/adapter-pg': '6.19.3',
  '@prisma/client': '6.19.3',
  '@prisma/driver-adapter-utils': '6.19.3',
  'drizzle-kit': '0.31.11',
  'drizzle-orm': '0.45.4',
  pg: '8.23.1',
  prisma: '6.19.3',
}

/** A tool that makes the tables of these schemas as its own declaration says: `account`, in `public`, and nothing else. */
export interface PushTool {
  readonly name: string
  /** @param managed the schemas that it manages @returns what it printed */
  push(url: string, managed: readonly string[]): Promise<string>
}

/** A program that does nothing. */
const NO_ENGINE = 'no-engine'

/** What has been installed, or why nothing could be. */
export async function pushTools(): Promise<readonly PushTool[] | Error> {
  const cache = fileURLToPath(new URL('../node_modules/.cache/', import.meta.url))
  const manifest = JSON.stringify({ private: true, type: 'module', dependencies })
  const prepare = (folder: string): Promise<void> => writeFile(join(folder, NO_ENGINE), '#!/bin/sh\n', { mode: 0o755 })
  let home: string
  try {
    home = await npmFolder({ name: 'push-tools', manifest, cache, prepare })
  } catch (error) {
    return error as Error
  }
  return [drizzle(home), prisma(home)]
}

function drizzle(home: string): PushTool {
  const schema = `import { integer, pgTable } from 'drizzle-orm/pg-core'
export const account = pgTable('account', { id: integer().primaryKey(), balance: integer().notNull() })
`
  const config = (url: string, managed: readonly string[]): string =>
    `export default ${JSON.stringify({ dialect: 'postgresql', schema: './schema.ts', schemaFilter: managed, dbCredentials: { url } })}\n`
  return {
    name: 'drizzle-kit push',
    push: (url, managed) =>
      inProject(home, { 'schema.ts': schema, 'drizzle.config.ts': config(url, managed) }, (cwd) =>
        run(process.execPath, [join(home, 'node_modules/drizzle-kit/bin.cjs'), 'push', '--force'], { cwd }),
      ),
  }
}

/**
 * Prisma's own engines are programs that npm does not have. Its schema engine is also there as WebAssembly, for driver adapters
 * (`engine: 'js'`), and does the same.
 */
function prisma(home: string): PushTool {
  const schema = (managed: readonly string[]): string => `datasource db {
  provider = "postgresql"
  url      = env("LEASE_PUSH_URL")
  schemas  = ${JSON.stringify(managed)}
}
generator client {
  provider = "prisma-client"
  output   = "./generated"
}
model account {
  id      Int @id
  balance Int
  @@schema("public")
}
`
  return {
    name: 'prisma db push',
    push: (url, managed) =>
      inProject(home, { 'schema.prisma': schema(managed), 'prisma.config.ts': PRISMA_CONFIG }, (cwd) =>
        run(
          process.execPath,
          [join(home, 'node_modules/prisma/build/index.js'), 'db', 'push', '--skip-generate', '--accept-data-loss'],
          {
            cwd,
            done: 'Your database is now in sync with your Prisma schema',
            env: {
              ...process.env,
              LEASE_PUSH_URL: url,
              CHECKPOINT_DISABLE: '1',
              // It looks for its engines before it reads the configuration, which needs none.
              PRISMA_QUERY_ENGINE_LIBRARY: join(home, NO_ENGINE),
              PRISMA_SCHEMA_ENGINE_BINARY: join(home, NO_ENGINE),
            },
          },
        ),
      ),
  }
}

/** The adapter does not know the types `name` and `"char"` of PostgreSQL's catalog, which the schema engine asks for. */
const PRISMA_CONFIG = `import { createRequire } from 'node:module'
import { PrismaPg } from '@prisma/adapter-pg'
import { ColumnTypeEnum } from '@prisma/driver-adapter-utils'
import { defineConfig } from 'prisma/config'

const CHAR = 18, NAME = 19, TEXT = 25, NAMES = 1003, TEXTS = 1009
const chars = new Set()
const { prototype } = createRequire(import.meta.url)('pg/lib/result.js')
const { addFields } = prototype
prototype.addFields = function (fields) {
  for (const field of fields) {
    if (field.dataTypeID === CHAR) chars.add(field.name)
    if (field.dataTypeID === CHAR || field.dataTypeID === NAME) field.dataTypeID = TEXT
    if (field.dataTypeID === NAMES) field.dataTypeID = TEXTS
  }
  return addFields.call(this, fields)
}
function knowing(adapter) {
  const queryRaw = adapter.queryRaw.bind(adapter)
  adapter.queryRaw = async (query) => {
    const result = await queryRaw(query)
    result.columnNames.forEach((name, index) => {
      if (chars.has(name)) result.columnTypes[index] = ColumnTypeEnum.Character
    })
    return result
  }
  return adapter
}
class Adapter extends PrismaPg {
  async connect() {
    return knowing(await super.connect())
  }
}
export default defineConfig({
  experimental: { adapter: true },
  engine: 'js',
  schema: './schema.prisma',
  adapter: async () => new Adapter({ connectionString: process.env.LEASE_PUSH_URL }),
})
`

/** Runs a command in a folder of its own with these files, from which the tools are found. */
async function inProject(
  home: string,
  files: Readonly<Record<string, string>>,
  command: (cwd: string) => Promise<string>,
): Promise<string> {
  const cwd = await mkdtemp(join(home, 'project-'))
  try {
    await writeFile(join(cwd, 'package.json'), JSON.stringify({ private: true, type: 'module' }))
    for (const [name, text] of Object.entries(files)) await writeFile(join(cwd, name), text)
    return await command(cwd)
  } finally {
    await rm(cwd, { recursive: true, force: true })
  }
}
