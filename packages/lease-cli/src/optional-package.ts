/** Packages that only some commands or stores need: they are loaded there, and need not be installed. */
import { CommandEnd, EXIT } from './exit-codes.ts'

/**
 * Loads the package.
 *
 * @param beside what has to be installed with it
 * @throws CommandEnd 127: it is not installed
 */
export async function optionalPackage<T>(name: string, beside: readonly string[] = []): Promise<T> {
  try {
    return (await import(name)) as T // no name for the compiler: the package need not be there
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    const names = [name, ...beside]
    throw new CommandEnd(
      EXIT.notFound,
      `the package ${name} is not installed`,
      `npm install ${names.join(' ')}   beside lease-cli, or: npx ${['lease-cli', ...names].map((one) => `-p ${one}`).join(' ')} lease COMMAND`,
    )
  }
}
