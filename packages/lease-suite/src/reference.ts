/**
 * Makes docs/reference.md from the sources: each event with its fields, each warning with its code, each option with its default.
 * A test compares the page with it; `main.ts reference` writes the page.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { publishedPackages } from './checks.ts'
import { root } from './test-files.ts'

export const REFERENCE_PAGE: string = join(root, 'docs/reference.md')

/** In the place of a message that is put together elsewhere. */
const SEE_PAGE = '(see the page)'

/** The page about a package, where that is not its README. */
const pages: ReadonlyMap<string, string> = new Map([
  ['lease-core', 'setup.md'],
  ['lease-postgres', 'substrates/postgres.md'],
  ['lease-redis', 'substrates/redis.md'],
  ['lease-etcd', 'substrates/etcd.md'],
  ['lease-recipes', 'recipes/README.md'],
  ['lease-cron', 'recipes/once-per.md'],
])

/** The text of the page. */
export function reference(): string {
  const packages = publishedPackages()
    .toSorted()
    .map((name) => {
      return { name, page: pages.get(name) ?? `../packages/${name}/README.md`, files: sourcesOf(name) }
    })
  const core = packages.find(({ name }) => name === 'lease-core')?.files ?? []
  return `# Reference

This page is made from the sources by \`npx -y pnpm@10 reference\`, and a test compares it with them. Events and warnings
are for logs, metrics and alerts: subscribe with \`manager.events.subscribe(listener)\`, or to the channels
\`lease-core:<type>\` of \`node:diagnostics_channel\`.

## Events

${eventsIn(core)}

## Warnings

An event \`warning\` has one of these words in its field \`warning\`. Without a listener the event becomes a warning of the
process, with the code.

${table(
  ['warning', 'code', 'message', 'page'],
  packages
    .flatMap(({ files, page }) => files.flatMap((file) => warningsIn(file)).map((warning) => ({ page, ...warning })))
    .toSorted((a, b) => (a.word < b.word ? -1 : a.word > b.word ? 1 : 0))
    .map(({ word, message, page }) => [`\`${word}\``, `\`${codeOf(word)}\``, message, `[${page}](${page})`]),
)}

## Options

A duration is an object such as \`{ seconds: 30 }\`, or a number of milliseconds.

${packages
  .flatMap(({ name, page, files }) => {
    const exported = exportsOf(name)
    const interfaces = files.flatMap((file) => file.statements.filter(ts.isInterfaceDeclaration))
    const options = interfaces.filter((one) => exported.has(one.name.text) && /(Options|Config)$/.test(one.name.text))
    const tables = options.map((one) => optionsIn(one))
    return tables.length === 0 ? [] : [`### ${name}\n\nMore: [${page}](${page}).\n\n${tables.join('\n\n')}`]
  })
  .join('\n\n')}
`
}

function sourcesOf(name: string): ts.SourceFile[] {
  const folder = join(root, 'packages', name, 'src')
  const paths = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts'))
  return paths
    .filter((path) => !/^(conformance|testing)\//.test(path))
    .toSorted()
    .map((path) =>
      ts.createSourceFile(
        path,
        readFileSync(join(folder, path), 'utf8'),
        ts.ScriptTarget.ES2023,
        true,
        ts.ScriptKind.TS,
      ),
    )
}

/** The names that a package exports, types included. */
function exportsOf(name: string): ReadonlySet<string> {
  const text = readFileSync(join(root, 'packages', name, 'src/index.ts'), 'utf8')
  const lists = text.matchAll(/export (?:type )?\{([^}]*)\}/g)
  return new Set([...lists].flatMap(([, list = '']) => list.match(/\w+(?=\s*(?:,|$))/g) ?? []))
}

/** The members of the type that all events are made of. */
function eventsIn(files: readonly ts.SourceFile[]): string {
  for (const file of files) {
    const type = file.statements.find((one) => ts.isTypeAliasDeclaration(one) && one.name.text === 'LeaseEventBody')
    if (type === undefined || !ts.isTypeAliasDeclaration(type) || !ts.isUnionTypeNode(type.type)) continue
    let before = type.type.getFullStart()
    const rows = type.type.types.map((member) => {
      const comment = file.text.slice(before, member.getStart(file))
      before = member.getEnd()
      const fields = ts.isTypeLiteralNode(member) ? member.members.filter(ts.isPropertySignature) : []
      const typeOf = ({ type, questionToken }: ts.PropertySignature): string => {
        const text = type?.getText(file) ?? ''
        return questionToken === undefined ? text : text.replace(/ \| undefined$/, '')
      }
      const name = fields.find((field) => field.name.getText(file) === 'type')
      const others = fields.filter((field) => field !== name)
      const shown = others.map((field) => {
        const says = docOf(field)
        const optional = field.questionToken === undefined ? '' : '?'
        return `\`${field.name.getText(file)}${optional}\`: \`${typeOf(field)}\`${says === '' ? '' : ` (${says})`}`
      })
      const when = prose(comment.replace(/^[^*]*\*+|\*\/[^]*$|^ *\* ?/gm, ' '))
      return [`\`${name === undefined ? '' : typeOf(name).replaceAll("'", '')}\``, shown.join('<br>'), when]
    })
    return table(['type', 'fields', 'when'], rows)
  }
  throw new Error('there is no type LeaseEventBody in the sources of lease-core')
}

function docOf(member: ts.PropertySignature): string {
  const [doc] = ts.getJSDocCommentsAndTags(member).filter(ts.isJSDoc)
  return prose(ts.getTextOfJSDocComment(doc?.comment) ?? '')
}

/** Where a warning is made: an object with the fields `warning` and `message`, or a call `warn(applies, word, message)`. */
function warningsIn(file: ts.SourceFile): { readonly word: string; readonly message: string }[] {
  const found: { word: string; message: string }[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isObjectLiteralExpression(node)) {
      const valueOf = (name: string): ts.Expression | undefined => {
        const property = node.properties.find((one) => one.name?.getText(file) === name)
        if (property !== undefined && ts.isShorthandPropertyAssignment(property)) return constant(node, name)
        return property !== undefined && ts.isPropertyAssignment(property) ? property.initializer : undefined
      }
      add(valueOf('warning'), valueOf('message'))
    } else if (ts.isCallExpression(node) && node.expression.getText(file) === 'warn') add(...node.arguments.slice(1, 3))
    ts.forEachChild(node, visit)
  }
  const add = (word?: ts.Expression, message?: ts.Expression): void => {
    // Warnings of the process alone have names such as LeaseTimerWarning.
    if (word !== undefined && ts.isStringLiteral(word) && /^[a-z-]+$/.test(word.text))
      found.push({ word: word.text, message: textOf(message) })
  }
  visit(file)
  return found
}

/** The value of a `const` beside this node. */
function constant(node: ts.Node, name: string): ts.Expression | undefined {
  for (let at: ts.Node | undefined = node; at !== undefined; at = at.parent) {
    if (!ts.isBlock(at)) continue
    const declared = at.statements.filter(ts.isVariableStatement).flatMap((one) => one.declarationList.declarations)
    const found = declared.find((one) => one.name.getText() === name)?.initializer
    if (found !== undefined) return found
  }
  return undefined
}

/** A text, with `…` for what is known at run time only. */
function textOf(node: ts.Expression | undefined): string {
  if (node === undefined) return SEE_PAGE
  if (ts.isStringLiteralLike(node)) return prose(node.text)
  if (ts.isTemplateExpression(node)) {
    return prose([node.head.text, ...node.templateSpans.map(({ literal }) => literal.text)].join('…'))
  }
  if (ts.isBinaryExpression(node)) return prose(`${textOf(node.left)} ${textOf(node.right)}`)
  return SEE_PAGE
}

function optionsIn(one: ts.InterfaceDeclaration): string {
  const parents = (one.heritageClauses ?? []).flatMap(({ types }) => types.map((type) => `\`${type.getText()}\``))
  const rows = one.members.filter(ts.isPropertySignature).map((member) => {
    const [doc] = ts.getJSDocCommentsAndTags(member).filter(ts.isJSDoc)
    const tag = doc?.tags?.find(({ tagName }) => tagName.text === 'default')
    const fallback = ts.getTextOfJSDocComment(tag?.comment)
    const isRequired = member.questionToken === undefined
    return [`\`${member.name.getText()}\``, isRequired ? '(required)' : prose(fallback ?? ''), docOf(member)]
  })
  const heading = `#### ${one.name.text}`
  const also = parents.length === 0 ? '' : `\n\nAlso the options of\n${parents.join(',\n')}.`
  return `${heading}${also}${rows.length === 0 ? '' : `\n\n${table(['option', 'default', ''], rows)}`}`
}

function codeOf(warning: string): string {
  return `LEASE_${warning.toUpperCase().replaceAll(/\W/g, '_')}`
}

function prose(text: string): string {
  return text
    .replaceAll(/\{@link (\w+)\}/g, '`$1`')
    .replaceAll(/\s+/g, ' ')
    .trim()
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(heads), `|${heads.map(() => '---|').join('')}`, ...rows.map(line)].join('\n').replaceAll('|  |', '| |')
}
