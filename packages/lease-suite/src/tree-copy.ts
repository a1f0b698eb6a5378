/** A copy of the workspace in which a fault is tried, so that nobody's own files are touched. */
import { execFile } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { root } from './test-files.ts'

/** The unpacked servers are in a folder of this name: they are large, and shared. */
const CACHE = '.cache'

/**
 * Files of the workspace as they are now, committed or not, and all that was compiled from them. A changed source is compiled alone
 * and without a look at its types.
 */
export class TreeCopy implements AsyncDisposable {
  readonly folder: string
  readonly #changed = new Map<string, string>()

  private constructor(folder: string) {
    this.folder = folder
  }

  static async make(): Promise<TreeCopy> {
    const folder = await mkdtemp(join(tmpdir(), 'lease-mutants-'))
    const copy = new TreeCopy(folder)
    try {
      await copy.#fill()
      return copy
    } catch (error) {
      await copy[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Compiles these sources in the place of their own; {@link restore} takes them back. @throws {SyntaxError} */
  async put(sources: ReadonlyMap<string, string>): Promise<void> {
    for (const [file, source] of sources) {
      const built = join(this.folder, file.replace('/src/', '/dist/').replace(/\.ts$/, '.js'))
      if (!this.#changed.has(built)) this.#changed.set(built, readFileSync(built, 'utf8'))
      await writeFile(built, await compiled(file, source))
    }
  }

  async restore(): Promise<void> {
    for (const [built, text] of this.#changed) await writeFile(built, text)
    this.#changed.clear()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.folder, { recursive: true, force: true })
  }

  /** Copies synchronously: for thousands of files this takes a quarter of the time. */
  async #fill(): Promise<void> {
    const { stdout } = await promisify(execFile)('git', ['ls-files', '-z', '-co', '--exclude-standard'], {
      cwd: root,
      maxBuffer: 100_000_000,
    })
    const files = stdout.split('\0').filter((file) => file !== '' && existsSync(join(root, file)))
    for (const folder of new Set(files.map(dirname))) mkdirSync(join(this.folder, folder), { recursive: true })
    for (const file of files) copyFileSync(join(root, file), join(this.folder, file))
    symlinkSync(join(root, 'node_modules'), join(this.folder, 'node_modules'), 'dir')
    for (const folder of new Set(files.filter((file) => file.endsWith('package.json')).map(dirname))) {
      if (folder === '.') continue
      for (const name of readdirSync(join(root, folder))) {
        // The links of its node_modules are relative: those to packages of the workspace lead into the copy.
        if (!['dist', '.test-js', 'node_modules'].includes(name)) continue
        const options = { recursive: true, verbatimSymlinks: true, filter: (path: string) => basename(path) !== CACHE }
        cpSync(join(root, folder, name), join(this.folder, folder, name), options)
        const cache = join(root, folder, name, CACHE)
        if (existsSync(cache)) symlinkSync(cache, join(this.folder, folder, name, CACHE), 'dir')
      }
    }
  }
}

/** One file as JavaScript. @throws {SyntaxError} */
export async function compiled(file: string, source: string): Promise<string> {
  const { default: ts } = await import('typescript') // only here: it takes longer to load than all the rest
  const { outputText, diagnostics = [] } = ts.transpileModule(source, {
    fileName: file,
    reportDiagnostics: true,
    compilerOptions: {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      rewriteRelativeImportExtensions: true,
    },
  })
  const [wrong] = diagnostics.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '))
  if (wrong !== undefined) throw new SyntaxError(`${file} with the fault does not compile: ${wrong}`)
  return outputText
}
