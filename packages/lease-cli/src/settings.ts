/**
 * What a command needs to know besides its own flags, each field from the first place that has it: flag, environment, configuration file,
 * default. Nothing is guessed: without a URL there is no store.
 */
import { existsSync, readFileSync } from 'node:fs'
import os from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { reasonOf } from 'lease-core'
import { wrongUsage } from './exit-codes.ts'
import type { Io } from './io.ts'
import type { ColorChoice } from './output.ts'

/** The flags that every command has, as they were typed. */
export interface CommonFlags {
  readonly url?: string | undefined
  readonly urlFile?: string | undefined
  readonly config?: string | undefined
  readonly namespace?: string | undefined
  readonly schema?: string | undefined
  readonly table?: string | undefined
  readonly prefix?: string | undefined
  readonly as?: string | undefined
  readonly json?: boolean | undefined
  readonly color?: ColorChoice | undefined
  readonly retry?: string | boolean | undefined
  readonly verbose?: boolean | undefined
}

/** Where the store is. */
export interface Settings {
  /** With the password: never print it. */
  readonly url: string
  /** Where the URL came from, for messages. */
  readonly urlFrom: string
  readonly namespace: string | undefined
  readonly schema: string | undefined
  readonly table: string | undefined
  readonly prefix: string | undefined
}

/** The fields of a configuration file. */
const FIELDS = ['url', 'urlFile', 'migrateUrl', 'namespace', 'schema', 'table', 'prefix', 'as', 'readOnly'] as const
type Field = (typeof FIELDS)[number]
type Config = Partial<Record<Exclude<Field, 'readOnly'>, string>> & { readonly readOnly?: boolean }

const VARIABLES: Readonly<Record<Exclude<Field, 'readOnly'>, string>> = {
  url: 'LEASE_URL',
  urlFile: 'LEASE_URL_FILE',
  migrateUrl: 'LEASE_MIGRATE_URL',
  namespace: 'LEASE_NAMESPACE',
  schema: 'LEASE_SCHEMA',
  table: 'LEASE_TABLE',
  prefix: 'LEASE_PREFIX',
  as: 'LEASE_AS',
}

/** Variables with passwords: no job gets them. */
export const SECRET_VARIABLES: readonly string[] = [VARIABLES.url, VARIABLES.migrateUrl]

/** Reads flags, environment and configuration file. */
export class SettingsReader {
  readonly #io: Io
  readonly #flags: CommonFlags
  #config: Promise<{ readonly config: Config; readonly file: string }> | undefined

  constructor(io: Io, flags: CommonFlags) {
    this.#io = io
    this.#flags = flags
  }

  /**
   * @param admin whether the URL of the role that migrates goes before the other
   * @throws CommandEnd 64: there is no URL, or a file cannot be read
   */
  async read({ admin = false }: { readonly admin?: boolean } = {}): Promise<Settings> {
    const [url, urlFrom] = await this.#url(admin)
    const [namespace, schema, table, prefix] = await Promise.all(
      (['namespace', 'schema', 'table', 'prefix'] as const).map(async (field) => (await this.#field(field))?.[0]),
    )
    return { url, urlFrom, namespace, schema, table, prefix }
  }

  /** Whether writes are refused, and by what; undefined: they are not. */
  async readOnly(): Promise<string | undefined> {
    const variable = this.#io.env['LEASE_READ_ONLY']
    if (variable !== undefined && !['', '0', 'false'].includes(variable)) return 'LEASE_READ_ONLY is set'
    if (variable !== undefined && variable !== '') return undefined
    const { config, file } = await this.#read()
    return config.readOnly === true ? `${file} says readOnly` : undefined
  }

  /** The person at the terminal, for the record: `--as`, or user@host. */
  async author(): Promise<string> {
    const [given] = (await this.#field('as')) ?? []
    return given ?? `${userName()}@${os.hostname()}`
  }

  async #url(admin: boolean): Promise<readonly [url: string, from: string]> {
    if (this.#flags.url !== undefined && this.#flags.urlFile !== undefined) {
      throw wrongUsage(
        '--url and --url-file exclude each other',
        'a URL with a password belongs into a file, or into LEASE_URL',
      )
    }
    if (this.#flags.url !== undefined) return [this.#flags.url, '--url']
    if (this.#flags.urlFile !== undefined) return this.#urlIn(this.#flags.urlFile, '--url-file', this.#io.cwd)
    const { env, cwd } = this.#io
    const { config, file } = await this.#read()
    for (const field of admin ? (['migrateUrl', 'url'] as const) : (['url'] as const)) {
      const inEnv = env[VARIABLES[field]]
      if (inEnv !== undefined && inEnv !== '') return [inEnv, VARIABLES[field]]
      const fileInEnv = env[VARIABLES.urlFile]
      if (field === 'url' && fileInEnv !== undefined && fileInEnv !== '')
        return this.#urlIn(fileInEnv, VARIABLES.urlFile, cwd)
      const inConfig = config[field]
      if (inConfig !== undefined) return [inConfig, file]
    }
    if (config.urlFile !== undefined) return this.#urlIn(config.urlFile, `urlFile of ${file}`, join(file, '..'))
    throw wrongUsage(
      'no store is named: there is no --url, no LEASE_URL, and no lease.config.json or lease.config.js here',
      'export LEASE_URL=postgres://user@host/database   (or redis://host, etcd://host:2379, dynamodb://region/table)',
    )
  }

  #urlIn(path: string, from: string, folder: string): readonly [url: string, from: string] {
    const file = resolve(folder, path)
    let text: string
    try {
      text = readFileSync(file, 'utf8').trim()
    } catch (error) {
      throw wrongUsage(`${from} cannot be read: ${reasonOf(error)}`)
    }
    if (text === '' || /\s/.test(text)) {
      throw wrongUsage(
        `${from} must be a file with one line, the URL (${file} has ${text === '' ? 'nothing' : 'more'} in it)`,
      )
    }
    return [text, file]
  }

  async #field(field: Exclude<Field, 'readOnly'>): Promise<readonly [value: string, from: string] | undefined> {
    const flag = (this.#flags as Readonly<Record<string, unknown>>)[field]
    if (typeof flag === 'string') return [flag, `--${field}`]
    const variable = this.#io.env[VARIABLES[field]]
    if (variable !== undefined && variable !== '') return [variable, VARIABLES[field]]
    const { config, file } = await this.#read()
    const value = config[field]
    return value === undefined ? undefined : [value, file]
  }

  #read(): Promise<{ readonly config: Config; readonly file: string }> {
    this.#config ??= readConfig(this.#io.cwd, this.#flags.config)
    return this.#config
  }
}

async function readConfig(cwd: string, given: string | undefined): Promise<{ config: Config; file: string }> {
  const names = given === undefined ? ['lease.config.json', 'lease.config.js', 'lease.config.mjs'] : [given]
  const found = names.map((name) => resolve(cwd, name)).filter((file) => existsSync(file))
  const [file] = found
  if (file === undefined) {
    if (given !== undefined) throw wrongUsage(`--config names a file that is not there: ${resolve(cwd, given)}`)
    return { config: {}, file: '' }
  }
  if (found.length > 1) throw wrongUsage(`there are several configuration files: keep one of ${found.join(', ')}`)
  return { config: checked(await load(file), file), file }
}

async function load(file: string): Promise<unknown> {
  if (!file.endsWith('.json')) {
    try {
      const module = (await import(pathToFileURL(file).href)) as { readonly default?: unknown }
      return module.default ?? module
    } catch (error) {
      throw wrongUsage(`${file} cannot be loaded: ${reasonOf(error)}`)
    }
  }
  const text = readFileSync(file, 'utf8')
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    // The message of the parser shows the text, which may be a password.
    const at = /position (\d+)/.exec(reasonOf(error))?.[1]
    const line = at === undefined ? '' : ` (line ${text.slice(0, Number(at)).split('\n').length})`
    throw wrongUsage(`${file} is not JSON${line}`, 'write {"url": "postgres://…", "namespace": "billing"}')
  }
}

function checked(value: unknown, file: string): Config {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw wrongUsage(`${file} must have an object in it`, 'write {"url": "postgres://…", "namespace": "billing"}')
  }
  for (const [field, one] of Object.entries(value)) {
    if (!(FIELDS as readonly string[]).includes(field)) {
      throw wrongUsage(
        `${file} has the unknown field ${JSON.stringify(field.slice(0, 40))}`,
        `known are ${FIELDS.join(', ')}`,
      )
    }
    const kind = field === 'readOnly' ? 'boolean' : 'string'
    if (typeof one !== kind || one === '') {
      throw wrongUsage(`${file}: ${field} must be ${kind === 'boolean' ? 'true or false' : 'a text that is not empty'}`)
    }
  }
  return value
}

function userName(): string {
  try {
    return os.userInfo().username
  } catch {
    return `uid-${process.getuid?.() ?? 'unknown'}` // a container may have no entry for it
  }
}
