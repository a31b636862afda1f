/** Types of the parts of preflight.mjs that tests use. */
export interface Requirement { needs: string, package: string, targets: string[] }
export interface LockFile { packages?: Record<string, { version?: string, optional?: boolean, peer?: boolean, link?: boolean }> }
export const TARGETS: Record<'demo' | 'test' | 'bench' | 'test:vm', { script: string, root: boolean }>
export const REQUIREMENTS: readonly Requirement[]
export class PreflightError extends Error {}
export function parseArguments (argv: readonly string[]): { check: boolean, target: string, args: string[] }
export function missingRequirements (requirements: readonly Requirement[], target: string, has: (needs: string) => boolean): Requirement[]
export function packagesOf (requirements: readonly Requirement[]): string[]
export function installCommand (packages: readonly string[]): string
export function npmPackagesMatch (lock: LockFile, hidden: LockFile | null): boolean
export function versionAtLeast (version: string, wanted: readonly [number, number]): boolean
